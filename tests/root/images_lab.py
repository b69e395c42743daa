"""Test support: an image service on a data root of its own, and the descriptors that it reads."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from common.database import Database
from images.endpoints import RegistryOptions
from images.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from images.model import Image, Progress
from images.service import ImageService
from tests.archives import Layer, image_config
from tests.registry import Registry

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


def put_index(
    registry: Registry, name: str, architectures: Sequence[str], *, listed_as: str = ""
) -> bytes:
    """An image for several platforms, straight into a registry; the index's bytes.

    ``listed_as`` is an architecture that the index says instead of the configurations'.
    """
    repository = name.partition(":")[0]
    entries = []
    for architecture in architectures:
        layer = Layer().file("architecture", architecture).tar()
        config = {**json.loads(image_config([layer], {})), "architecture": architecture}
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": registry.put_blob(repository, json.dumps(config).encode(), OCI_CONFIG),
            "layers": [registry.put_blob(repository, layer, OCI_LAYER)],
        }
        entry = registry.put_manifest(repository, json.dumps(manifest).encode(), OCI_MANIFEST)
        platform = {"os": "linux", "architecture": listed_as or architecture}
        entries.append({**entry, "platform": platform})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    data = json.dumps(index, indent=3).encode()
    registry.put_manifest(name, data, OCI_INDEX)
    return data


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
