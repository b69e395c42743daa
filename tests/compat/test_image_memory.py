"""What a pull needs of memory does not depend on the layer's size.

``python -m bench run -j image-pull-memory`` measures the same with 2 GB.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from tests import polling
from tests.engine import OwnEngine, fresh_name
from tests.registry import Registry

LAYER = 160 << 20
LIMIT_MB = 100


@pytest.mark.timeout(120)
def test_pull_of_a_large_layer(
    make_engine: Callable[..., OwnEngine], registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "layer.tar"
    info = tarfile.TarInfo("large")
    info.size = LAYER
    with file.open("wb") as out:
        out.write(info.tobuf())
        out.truncate(out.tell() + LAYER + 1024)
    remote = registry.put_file(f"{fresh_name()}:1", file)
    file.unlink()
    engine = make_engine()  # one whose image worker was not started before
    try:
        endpoint = Endpoint("own", engine.host)
        # The last processes that it starts by itself: until then its memory grows without a pull.
        spare = f"longshore-spare-job {engine.exec_root}"
        polling.until(
            lambda: [process.title for process in endpoint.daemons()].count(spare) == 2,
            "the spare jobs",
            timeout=20,
        )
        idle = endpoint.memory()
        used = endpoint.peak_memory("pull", "-q", remote) - idle
        assert engine.api("GET", f"/images/{remote}/json").json()["Size"] == LAYER
    finally:
        engine.destroy()
    assert 5 < used < LIMIT_MB, f"{used:.0f} MB above {idle:.0f} MB"
