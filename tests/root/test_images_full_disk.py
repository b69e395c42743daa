"""A disk that fills up during a pull or a load: an error, nothing lost, the space given back."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import InternalError
from tests.archives import Layer, docker_archive
from tests.registry import Registry
from tests.root.images_lab import leftovers, load, service

DISK_MEGABYTES = 160  # of which the engine leaves 64 alone when it unpacks
FULL = re.compile("no space left on device", re.IGNORECASE)
LARGE = 70 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    size = f"size={DISK_MEGABYTES}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "lab", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def used(disk: Path) -> int:
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


async def test_full_disk(disk: Path, registry: Registry) -> None:
    small, large = (Layer().file("f", os.urandom(size)).tar() for size in (1 << 10, LARGE))
    twice = Layer().file("f", os.urandom(1 << 20) * 180).tar()
    unpacked = registry.put("lab/full:1", [large], [large])
    received = registry.put("lab/full:2", [twice], [twice])
    async with service(disk) as images:
        (kept,), _ = await load(images, docker_archive(["kept:1"], [small]))
        before = used(disk)
        for name in (unpacked, received):
            with pytest.raises(InternalError, match=FULL):
                await images.exchange.pull(name, progress=lambda _line: None)
        for layer in (large, twice):
            with pytest.raises(InternalError, match=FULL):
                await load(images, docker_archive(["large:1"], [layer]))
        assert [image.id for image in images.find()] == [kept.id]
        assert not leftovers(disk)
        assert used(disk) - before < 1 << 20
        assert images.details.configuration(kept)
        await images.remove("kept:1", force=False, no_prune=False, in_use=lambda _id: [])
        again, _ = await load(images, docker_archive(["kept:1"], [small]))
        assert again[0].id == kept.id
