"""Library: what inspecting an image or a container shows of the store; read-only."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from common.errors import EngineError
from images import manifest
from images.content import ContentStore
from images.copies import Change
from images.model import Image, Platform
from images.snapshots import COPY, INIT, MERGED, Snapshots
from images.store import ImageStore


class Details:
    def __init__(self, store: ImageStore, content: ContentStore, snapshots: Snapshots) -> None:
        self._store = store
        self._content = content
        self._snapshots = snapshots

    def configuration(self, image: Image) -> bytes:
        """The image's OCI configuration, byte for byte as it came."""
        return self._content.read(image.id)

    def layer_sizes(self, image: Image) -> list[int]:
        """Bytes of each layer's files, base first."""
        sizes = self._store.layer_sizes()
        return [sizes.get(chain_id, 0) for chain_id in image.chain_ids]

    def descendants(self, image: Image) -> frozenset[str]:
        """The image and all that were built on its layers, as the ancestor filter means it."""
        depth = len(image.diff_ids)
        found = {image.id}
        for image_id in self._store.ids():
            other = self._store.get(image_id)
            if depth and other.chain_ids[:depth] == image.chain_ids:
                found.add(image_id)
        return frozenset(found)

    def layer_directories(self, image: Image) -> list[Path]:
        """The files of each layer, the top one first."""
        return self._snapshots.lower_directories(image.chain_ids)

    def is_listed_for(self, image: Image, wanted: Platform) -> bool:
        """Whether its index has the image for that platform, which configurations may get wrong."""
        own = self._store.manifests(image.id)
        for digest in own:
            try:
                document = manifest.parse(self._content.read(digest))
            except EngineError:
                continue
            if isinstance(document, manifest.Index) and any(
                entry.digest in own and entry.platform and wanted.matches(entry.platform)
                for entry in document.manifests
            ):
                return True
        return False

    def image_snapshot(self, image: Image) -> dict[str, str]:
        """GraphDriver.Data of an image: its layers' directories."""
        directories = self._snapshots.lower_directories(image.chain_ids)
        if not directories or self._snapshots.driver == COPY:
            return {}
        return _data(directories[1:], upper=directories[0])

    def container_snapshot(self, container_id: str) -> dict[str, str]:
        """GraphDriver.Data of a container."""
        if self._snapshots.driver == COPY:
            return {}
        chain_ids = self._store.container_chain(container_id) or []
        lower = self._snapshots.lower_directories(chain_ids)
        return _data(lower, upper=self.container_upper(container_id))

    def container_lower(self, container_id: str) -> list[Path]:
        """The directories below the container's own, the top one first."""
        if self._snapshots.driver == COPY:
            return [self._snapshots.root / container_id / MERGED]
        chain_ids = self._store.container_chain(container_id) or []
        lower = self._snapshots.lower_directories(chain_ids)
        return [*lower, self._snapshots.root / INIT / "fs"]

    @property
    def storage_driver(self) -> str:
        return self._snapshots.driver

    async def copied_changes(self, container_id: str) -> list[Change] | None:
        """What the container has changed in its copy of the image; None where overlayfs tells."""
        if self._snapshots.driver != COPY:
            return None
        return await asyncio.to_thread(self._snapshots.copied_changes, container_id)

    def container_upper(self, container_id: str) -> Path:
        """The directory of what the container has written."""
        return self._snapshots.upper_directory(container_id)


def _data(lower: list[Path], upper: Path) -> dict[str, str]:
    """Docker names a work directory and a mount point of a layer too, made or not."""
    paths = {
        "LowerDir": ":".join(map(os.fspath, lower)),
        "UpperDir": os.fspath(upper),
        "WorkDir": os.fspath(upper.parent / "work"),
        "MergedDir": os.fspath(upper.parent / "merged"),
    }
    return {key: path for key, path in paths.items() if path}
