"""Worker: ``docker commit``: what a container changed becomes a layer on top of its image.

The upper directory is read in a thread into a plain tar, which is then unpacked like any other
layer: container and image share nothing on disk.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import Any

from common.errors import InvalidArgument
from common.ids import FULL_ID
from images import manifest
from images.config import chain_ids, with_diff_ids
from images.content import ContentStore, Ingest, digest_of
from images.diff import LayerWriter
from images.layers import Layers, Unpacking
from images.model import ImageRecord, LayerRecord
from images.operation import Operation
from images.snapshots import Snapshots


class Commit:
    def __init__(self, content: ContentStore, snapshots: Snapshots, layers: Layers) -> None:
        self._content = content
        self._snapshots = snapshots
        self._layers = layers

    async def run(self, operation: Operation) -> dict[str, Any]:
        container_id = operation.arguments["container"]
        if not FULL_ID.fullmatch(container_id):
            raise InvalidArgument(f"invalid container id {container_id[:100]!r}")
        below = tuple(operation.arguments["diff_ids"])
        with self._content.ingest() as ingest:
            await asyncio.to_thread(self._read, container_id, ingest)
            diff_ids = (*below, ingest.digest)
            chain = chain_ids(diff_ids)
            configuration = with_diff_ids(operation.arguments["configuration"].encode(), diff_ids)
            image_id = digest_of(configuration)
            await operation.lease(chain, [image_id, ingest.digest])
            blob = ingest.commit()
        size = await self._layers.ensure(chain[-1], diff_ids[-1], blob, _ignore)
        self._content.add(configuration)
        await asyncio.to_thread(self._content.sync)
        layer = LayerRecord(
            chain_id=chain[-1],
            diff_id=diff_ids[-1],
            parent=chain[-2] if below else None,
            size=size,
            blob=blob,
            blob_size=ingest.size,
            media_type=manifest.DOCKER_LAYER,
        )
        return {"image": asdict(ImageRecord(image_id, (layer,)))}

    def _read(self, container_id: str, ingest: Ingest) -> None:
        """In a thread."""
        with self._snapshots.changed_files(container_id) as directory:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                LayerWriter(ingest.write).write(fd)
            finally:
                os.close(fd)


def _ignore(_state: Unpacking) -> None:
    pass
