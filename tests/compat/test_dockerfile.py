"""The Dockerfile's image: the engine in a privileged container of the engine, serving the API."""

from __future__ import annotations

import http.client
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import polling
from tests.archives import CHECKOUT
from tests.dockerfile import Builder, parse
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.probes import requires

pytestmark = [requires("mmdebstrap"), pytest.mark.timeout(300)]


@pytest.fixture
def image(engine: Engine, own_engine: OwnEngine) -> Iterator[str]:
    tag = f"{fresh_name()}:1"
    # Beside the engine's data: /tmp may be small, or a tmpfs.
    with tempfile.TemporaryDirectory(dir=own_engine.base) as folder:
        root = Path(folder, "root")
        root.mkdir()
        builder = Builder(root)
        builder.build(parse((CHECKOUT / "Dockerfile").read_text()))
        changes = [word for line in builder.config for word in ("-c", line)]
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            command = [str(engine.cli), "import", *changes, "-", tag]
            subprocess.run(
                command, stdin=tar.stdout, env=engine.env, check=True, stdout=subprocess.DEVNULL
            )
    yield tag
    engine.api("DELETE", f"/images/{tag}?force=1")


def _serves(engine: Engine) -> bool:
    try:
        return engine.responds() and engine.api("GET", "/info").status == 200
    except (OSError, http.client.HTTPException):
        return False


def test_engine_in_a_container(engine: Engine, image: str, name: str, tmp_path: Path) -> None:
    arguments = ("--privileged", "--name", name, "-v", f"{tmp_path}:/run/inner")
    engine.docker("run", "-d", *arguments, image, "-H", "unix:///run/inner/docker.sock", timeout=60)
    inner = Engine(tmp_path / "docker.sock", tmp_path)
    try:
        polling.until(
            lambda: _serves(inner),
            "the inner engine",
            timeout=30,
            explain=lambda: engine.docker("logs", name).stderr,
        )
        assert "Server:" in inner.docker("version").stdout
        inner.load_busybox()
        assert inner.docker("run", "--rm", BUSYBOX, "echo", "inside").stdout == "inside\n"
        inner.docker(
            "run", "-d", "--name", "box", "-m", "64m", "-p", "8080:80", BUSYBOX, "sleep", "99"
        )
        assert inner.docker("exec", "box", "hostname").stdout.strip()
        gateway = inner.inspect("box")["NetworkSettings"]["Gateway"]
        inner.docker("exec", "box", "ping", "-c", "1", "-w", "5", gateway)
        inner.docker("rm", "-f", "box")
    finally:
        inner.close()
    engine.docker("stop", "-t", "100", name, timeout=110)
    assert engine.inspect(name)["State"]["ExitCode"] == 0
