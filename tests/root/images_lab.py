"""Test support: an image service on a data root of its own, and the descriptors that it reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from common.database import Database
from images.endpoints import RegistryOptions
from images.model import Image, Progress
from images.service import ImageService

CONTAINER = "c0ffee" + "0" * 58


@asynccontextmanager
async def service(
    data_root: Path, *, worker_idle: float = 60.0, registries: RegistryOptions | None = None
) -> AsyncIterator[ImageService]:
    os.makedirs(data_root, exist_ok=True)
    with contextlib.closing(Database(data_root / "meta.db")) as database:
        images = ImageService(data_root, database, worker_idle=worker_idle, registries=registries)
        await images.open()
        try:
            yield images
        finally:
            await images.close()


@contextmanager
def readable(data: bytes) -> Iterator[int]:
    """A descriptor that reads ``data``."""
    fd = os.memfd_create("archive", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


async def load(images: ImageService, archive: bytes) -> tuple[list[Image], list[Progress]]:
    lines: list[Progress] = []
    with readable(archive) as fd:
        return await images.load(fd, progress=lines.append), lines


def layer_directory(data_root: Path, chain_id: str) -> Path:
    return data_root / "snapshots" / chain_id.removeprefix("sha256:") / "fs"


def leftovers(data_root: Path) -> list[str]:
    """What an operation must not leave: ingests and half-made snapshots."""
    partials = [
        *(data_root / "snapshots").glob("*-*"),
        *(data_root / "snapshots" / "new").iterdir(),
    ]
    ingests = (data_root / "content" / "ingest").iterdir()
    return [path.name for path in (*partials, *ingests)]
