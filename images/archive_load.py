"""Worker: ``docker load``: the archives of ``docker save``, old and new, and OCI image layouts.

The archive is read once, as it comes: each of its files becomes an ingest under our own name, and
only what a manifest then asks for becomes content. Names in the archive are keys of a dictionary,
never paths. Whether the archive or its layers are compressed is told from their bytes.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from common import tar
from common.errors import InvalidArgument
from common.ids import short
from images import compression, config, manifest
from images.content import METADATA_LIMIT, ContentStore, Ingest, digest_of
from images.layers import Layers, Unpacking
from images.model import ImageRecord, LayerRecord, Platform, Progress
from images.operation import Operation
from images.streams import ClientStream, in_thread
from images.taskgroup import TaskGroup

FILES_LIMIT = 10_000
LINKS_LIMIT = 8


@dataclass(slots=True)
class Archive:
    """What the archive contained: files by their names in it, spooled to ingests."""

    files: dict[str, Ingest] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Ingest:
        path = _normal(name)
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
                name = _normal(os.fsdecode(entry.name))
                if len(archive.files) + len(archive.links) > FILES_LIMIT:
                    raise InvalidArgument(f"invalid archive: more than {FILES_LIMIT} files")
                if entry.type == tar.REGULAR and entry.sparse is None:
                    ingest = ingests.enter_context(self._content.ingest())
                    for part in reader.data():
                        ingest.write(part)
                    archive.files[name] = ingest
                elif entry.type == tar.SYMLINK:
                    target = posixpath.join(posixpath.dirname(name), os.fsdecode(entry.linkname))
                    archive.links[name] = _normal(target)
                elif entry.type == tar.HARDLINK:
                    archive.links[name] = _normal(os.fsdecode(entry.linkname))
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
        own = [image_id, digest_of(image.manifest)] if image.manifest else [image_id]
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
        self._content.add(image.config)
        return ImageRecord(
            id=image_id,
            layers=tuple(task.result() for task in tasks),
            manifest=self._content.add(image.manifest) if image.manifest else "",
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


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


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


def find_images(archive: Archive, platform: str | None) -> list[LoadedImage]:
    wanted = Platform.parse(platform) if platform else None
    if archive.has("manifest.json"):
        found = _docker_images(archive)
    elif archive.has("index.json"):
        found = _oci_images(archive, wanted)
    else:
        raise InvalidArgument("invalid archive: it has neither manifest.json nor index.json")
    if wanted is not None:
        found = [image for image in found if wanted.matches(config.parse(image.config).platform)]
        if not found:
            raise InvalidArgument(f"requested platform(s) ([{wanted}]) not found in the archive")
    return found


def _docker_images(archive: Archive) -> list[LoadedImage]:
    text = archive.read("manifest.json")
    wrapped = config.load_object(b'{"images":' + text + b"}", "manifest.json")
    images = []
    for item in config.member(wrapped, "images", list, []):
        if not isinstance(item, dict):
            raise InvalidArgument("invalid manifest.json: an image is not an object")
        images.append(
            LoadedImage(
                config=archive.read(config.member(item, "Config", str, "")),
                layers=config.strings(item, "Layers"),
                media_types=(),
                references=config.strings(item, "RepoTags"),
            )
        )
    return images


def _oci_images(archive: Archive, wanted: Platform | None) -> list[LoadedImage]:
    index = manifest.parse(archive.read("index.json"), manifest.OCI_INDEX)
    if not isinstance(index, manifest.Index):
        raise InvalidArgument("invalid index.json: not an index")
    images = []
    for entry in index.manifests:
        annotations = entry.annotations or {}
        name = annotations.get("io.containerd.image.name") or annotations.get(
            "org.opencontainers.image.ref.name", ""
        )
        data = _blob(archive, entry)
        document = manifest.parse(data, entry.media_type)
        if isinstance(document, manifest.Index):
            chosen = manifest.choose(document, wanted or Platform.of_host())
            if chosen is None:
                raise InvalidArgument(f"no image for {wanted or Platform.of_host()} in the archive")
            data = _blob(archive, chosen)
            document = manifest.parse(data, chosen.media_type)
        if not isinstance(document, manifest.Manifest):
            raise InvalidArgument("invalid archive: an index of indexes")
        images.append(_oci_image(archive, document, data, name))
    return images


def _oci_image(
    archive: Archive, document: manifest.Manifest, data: bytes, name: str
) -> LoadedImage:
    for layer in document.layers:
        _check_blob(archive, layer)
    return LoadedImage(
        config=_blob(archive, document.config),
        layers=tuple(archive.blob(layer.digest) for layer in document.layers),
        media_types=tuple(layer.media_type for layer in document.layers),
        references=(name,) if "/" in name or ":" in name else (),
        manifest=data,
    )


def _blob(archive: Archive, wanted: manifest.Descriptor) -> bytes:
    _check_blob(archive, wanted)
    return archive.read(archive.blob(wanted.digest))


def _check_blob(archive: Archive, wanted: manifest.Descriptor) -> None:
    """Whether the archive has under the digest's name what the digest and the size say."""
    found = archive.find(archive.blob(wanted.digest))
    if found.digest != wanted.digest:
        raise InvalidArgument(f"invalid archive: the content of {wanted.digest} is not that")
    if found.size != wanted.size:
        raise InvalidArgument(
            f"invalid archive: {wanted.digest} has {found.size} bytes, not {wanted.size}"
        )
