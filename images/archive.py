"""Worker: what an archive of ``docker save`` or an OCI image layout contained.

Filled by ``images/archive_load.py``, read by ``images/archive_images.py``. Names in the archive are
keys of a dictionary, never paths.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field

from common.errors import InvalidArgument
from images.content import METADATA_LIMIT, Ingest

LINKS_LIMIT = 8


@dataclass(slots=True)
class Archive:
    """What the archive contained: files by their names in it, spooled to ingests."""

    files: dict[str, Ingest] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Ingest:
        path = normal(name)
        for _ in range(LINKS_LIMIT):
            if path in self.files:
                return self.files[path]
            if path not in self.links:
                break
            path = self.links[path]
        raise InvalidArgument(f"invalid archive: it has no file {name[:200]!r}")

    def has(self, name: str) -> bool:
        return name in self.files

    def read(self, name: str) -> bytes:
        ingest = self.find(name)
        if ingest.size > METADATA_LIMIT:
            raise InvalidArgument(
                f"invalid archive: {name[:200]!r} is larger than {METADATA_LIMIT}"
            )
        fd = ingest.reader()
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def blob(self, digest: str) -> str:
        return "blobs/" + digest.replace(":", "/")


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image of the archive before its layers are unpacked."""

    config: bytes
    layers: tuple[str, ...]  # names in the archive
    media_types: tuple[str, ...]  # of the layers; empty: tell from the bytes
    references: tuple[str, ...]
    manifest: bytes = b""
    index: bytes = b""  # that the manifest is listed in, beside those for other platforms


def normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")
