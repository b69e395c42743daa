"""Worker: ``docker import``: a tar of a root file system becomes an image of one layer.

The stream is kept as it came where a registry would take it so (plain, gzip, zstd); bzip2 and xz
are decompressed on the way in. The configuration comes from lifecycle, except for what only the
unpacking tells: the layer's diff id.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import Any

from images import compression, manifest
from images.config import with_diff_ids
from images.content import ContentStore, Ingest, digest_of
from images.layers import Layers
from images.model import ImageRecord, LayerRecord
from images.operation import Operation
from images.streams import ClientStream, in_thread

_MEDIA_TYPES = (
    (compression.GZIP, manifest.DOCKER_LAYER_GZIP),
    (compression.ZSTD, manifest.OCI_LAYER_ZSTD),
)


class Import:
    def __init__(self, content: ContentStore, layers: Layers) -> None:
        self._content = content
        self._layers = layers

    async def run(self, operation: Operation) -> dict[str, Any]:
        stream = ClientStream(operation.fds[0])
        with self._content.ingest() as ingest:
            media_type = await in_thread(stream, lambda: _spool(stream, ingest))
            archive = ingest.reader()
            try:
                bottom = await self._layers.unpack_unknown(archive)
            finally:
                os.close(archive)
            with bottom:
                configuration = with_diff_ids(
                    operation.arguments["configuration"].encode(), [bottom.diff_id]
                )
                image_id = digest_of(configuration)
                await operation.lease([bottom.diff_id], [image_id, ingest.digest])
                bottom.commit()
                blob = ingest.commit()
        self._content.add(configuration)
        await asyncio.to_thread(self._content.sync)
        layer = LayerRecord(
            chain_id=bottom.diff_id,
            diff_id=bottom.diff_id,
            parent=None,
            size=bottom.size,
            blob=blob,
            blob_size=ingest.size,
            media_type=media_type,
        )
        return {"image": asdict(ImageRecord(image_id, (layer,)))}


def _spool(stream: ClientStream, ingest: Ingest) -> str:
    """In a thread; the media type of what was kept."""
    source = compression.Source(stream.read)
    start = source.peek(6)
    if start.startswith((compression.BZIP2, compression.XZ)):
        for piece in compression.decompressed(source):
            ingest.write(piece)
        return manifest.DOCKER_LAYER
    while data := source.read():
        ingest.write(data)
    for magic, media_type in _MEDIA_TYPES:
        if start.startswith(magic):
            return media_type
    return manifest.DOCKER_LAYER
