"""Worker: ``docker load``: the archives of ``docker save``, old and new, and OCI image layouts.

The archive is read once, as it comes: each of its files becomes an ingest under our own name, and
only what a manifest then asks for becomes content (``images/archive_images.py``). Whether the
archive or its layers are compressed is told from their bytes.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from common import tar
from common.errors import InvalidArgument
from common.ids import short
from images import compression, config, manifest
from images.archive import Archive, LoadedImage, normal
from images.archive_images import find_images
from images.content import ContentStore, Ingest, digest_of
from images.layers import Layers, Unpacking
from images.model import ImageRecord, LayerRecord, Progress
from images.operation import Operation
from images.streams import ClientStream, in_thread
from images.taskgroup import TaskGroup

FILES_LIMIT = 10_000


class Load:
    def __init__(self, content: ContentStore, layers: Layers) -> None:
        self._content = content
        self._layers = layers

    async def run(self, operation: Operation) -> dict[str, Any]:
        with ExitStack() as ingests:
            archive = Archive()
            stream = ClientStream(operation.fds[0])
            await in_thread(stream, lambda: self._spool(stream, archive, ingests))
            images = find_images(archive, operation.arguments["platform"])
            records = [await self._load(operation, archive, image) for image in images]
        await asyncio.to_thread(self._content.sync)
        return {"images": [asdict(record) for record in records]}

    def _spool(self, stream: ClientStream, archive: Archive, ingests: ExitStack) -> None:
        """In a thread."""
        reader = tar.Reader(compression.decompressed(compression.Source(stream.read)))
        try:
            for entry in reader:
                name = normal(os.fsdecode(entry.name))
                if len(archive.files) + len(archive.links) > FILES_LIMIT:
                    raise InvalidArgument(f"invalid archive: more than {FILES_LIMIT} files")
                if entry.type == tar.REGULAR and entry.sparse is None:
                    ingest = ingests.enter_context(self._content.ingest())
                    for part in reader.data():
                        ingest.write(part)
                    archive.files[name] = ingest
                elif entry.type == tar.SYMLINK:
                    target = posixpath.join(posixpath.dirname(name), os.fsdecode(entry.linkname))
                    archive.links[name] = normal(target)
                elif entry.type == tar.HARDLINK:
                    archive.links[name] = normal(os.fsdecode(entry.linkname))
        except (tar.CorruptArchive, compression.CorruptStream) as e:
            raise InvalidArgument(str(e)) from e

    async def _load(
        self, operation: Operation, archive: Archive, image: LoadedImage
    ) -> ImageRecord:
        parsed = config.parse(image.config)
        if len(parsed.diff_ids) != len(image.layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(parsed.diff_ids)},"
                f" got {len(image.layers)}"
            )
        chain_ids = config.chain_ids(parsed.diff_ids)
        files = [archive.find(name) for name in image.layers]
        image_id = digest_of(image.config)
        documents = [data for data in (image.config, image.manifest, image.index) if data]
        own = [digest_of(data) for data in documents]
        await operation.lease(chain_ids, [*own, *(file.digest for file in files)])
        tasks = []
        async with TaskGroup() as group:
            for position, file in enumerate(files):
                media_type = image.media_types[position] if image.media_types else _media_type(file)
                tasks.append(
                    group.create_task(
                        self._layer(
                            operation,
                            file,
                            media_type,
                            chain_ids,
                            parsed.diff_ids[position],
                            position,
                        )
                    )
                )
        for data in documents:
            self._content.add(data)
        return ImageRecord(
            id=image_id,
            layers=tuple(task.result() for task in tasks),
            manifest=digest_of(image.manifest) if image.manifest else "",
            index=digest_of(image.index) if image.index else "",
            references=image.references,
        )

    async def _layer(
        self,
        operation: Operation,
        file: Ingest,
        media_type: str,
        chain_ids: tuple[str, ...],
        diff_id: str,
        position: int,
    ) -> LayerRecord:
        chain_id = chain_ids[position]
        line = short(diff_id)

        def report(state: Unpacking) -> None:
            if not operation.arguments["quiet"]:
                operation.progress(Progress("Loading layer", line, state.current, state.total))

        if not self._content.has(file.digest):
            file.commit()
        size = await self._layers.ensure(chain_id, diff_id, file.digest, report)
        return LayerRecord(
            chain_id=chain_id,
            diff_id=diff_id,
            parent=chain_ids[position - 1] if position else None,
            size=size,
            blob=file.digest,
            blob_size=file.size,
            media_type=media_type,
        )


def _media_type(file: Ingest) -> str:
    fd = file.reader()
    try:
        start = os.read(fd, 6)
    finally:
        os.close(fd)
    if start.startswith(compression.GZIP):
        return manifest.DOCKER_LAYER_GZIP
    if start.startswith(compression.ZSTD):
        return manifest.OCI_LAYER_ZSTD
    return manifest.DOCKER_LAYER
