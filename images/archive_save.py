"""Worker: ``docker save``: an OCI image layout that is a Docker archive too, as since Docker 25.

Blobs are written as they are kept, compressed or not; every ``docker load`` takes both. The OCI
manifest and index that an image came with are kept, so their digests survive; Docker's own are
written anew in OCI's types, since that is what readers of a layout know (umoci knows no other).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common import tar
from common.errors import InternalError
from images import config, manifest, reference
from images.content import ContentStore, digest_of
from images.listing import parse_time
from images.manifest import Descriptor, Index, Manifest
from images.operation import Operation
from images.streams import ClientStream, in_thread

PIECE = 1 << 18
_OCI_TYPES = {
    manifest.DOCKER_LAYER: manifest.OCI_LAYER,
    manifest.DOCKER_LAYER_GZIP: manifest.OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": manifest.OCI_LAYER_ZSTD,
    manifest.DOCKER_CONFIG: manifest.OCI_CONFIG,
}


@dataclass(frozen=True, slots=True)
class _Described:
    """An image's manifest in the archive, and its digest in the index that the image came with."""

    descriptor: Descriptor
    original: str
    document: Manifest
    diff_ids: tuple[str, ...]


class Save:
    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def run(self, operation: Operation) -> dict[str, Any]:
        tagged = operation.arguments["images"]
        images = [*tagged, *(sibling for image in tagged for sibling in image["siblings"])]
        blobs = [
            digest for image in images for kept in image["layers"].values() for digest, _, _ in kept
        ]
        manifests = [m for image in images for m in image["manifests"]]
        ids = [image["id"] for image in images]
        await operation.lease((), [*blobs, *manifests, *ids])
        stream = ClientStream(operation.fds[0])
        await in_thread(
            stream, lambda: _Writer(self._content, stream).write(operation.arguments["images"])
        )
        return {}


class _Writer:
    """In a thread."""

    def __init__(self, content: ContentStore, stream: ClientStream) -> None:
        self._content = content
        self._stream = stream
        self._written: set[str] = set()
        self._index: list[Descriptor] = []
        self._docker: list[dict[str, Any]] = []
        self._repositories: dict[str, dict[str, str]] = {}

    def write(self, images: list[dict[str, Any]]) -> None:
        self._directory("blobs/")
        self._directory("blobs/sha256/")
        for image in images:
            self._image(image)
        self._file("index.json", manifest.serialize_index(self._index), 0)
        self._json("manifest.json", self._docker)
        self._file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0)
        if self._repositories:
            self._json("repositories", self._repositories)
        self._stream.write(tar.end())

    def _image(self, image: Mapping[str, Any]) -> None:
        found = self._contents(image)
        siblings = [self._contents(sibling) for sibling in image["siblings"]]
        descriptor = self._platforms(image, [found, *siblings]) if siblings else found.descriptor
        names = [reference.parse(name) for name in image["references"]]
        for name in names:
            annotations = {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag or "",
            }
            self._index.append(replace(descriptor, annotations=annotations))
            if found.diff_ids:
                top = config.chain_ids(found.diff_ids)[-1].removeprefix("sha256:")
                self._repositories.setdefault(name.familiar_name, {})[name.tag or ""] = top
        if not names:
            self._index.append(descriptor)
        self._docker.append(
            {
                "Config": _path(image["id"]),
                "RepoTags": [name.familiar for name in names] or None,
                "Layers": [_path(layer.digest) for layer in found.document.layers],
                "LayerSources": {
                    diff_id: manifest.descriptor_json(layer)
                    for diff_id, layer in zip(found.diff_ids, found.document.layers, strict=True)
                },
            }
        )

    def _contents(self, image: Mapping[str, Any]) -> _Described:
        """Write configuration, layers and manifest."""
        configuration = self._content.read(image["id"])
        parsed = config.parse(configuration)
        created = parse_time(parsed.created or "") // 10**9
        original, document, data = self._manifest(image, parsed.diff_ids, len(configuration))
        self._blob(image["id"], created)
        for layer in document.layers:
            self._blob(layer.digest, created)
        described = self._document(document.media_type, data)
        return _Described(
            replace(described, platform=parsed.platform), original, document, parsed.diff_ids
        )

    def _platforms(self, image: Mapping[str, Any], present: list[_Described]) -> Descriptor:
        """The index of the platforms that are here: as it came if that is all of them."""
        here = {described.original: described.descriptor for described in present}
        for digest in image["manifests"]:
            if not self._content.has(digest):
                continue
            data = self._content.read(digest)
            index = manifest.parse(data)
            if not isinstance(index, Index):
                continue
            entries = [entry for entry in index.manifests if entry.digest in here]
            if len(entries) < 2:
                continue
            whole = len(entries) == len(index.manifests) and index.media_type == manifest.OCI_INDEX
            if not whole or any(here[e.digest].digest != e.digest for e in entries):
                kept = [
                    replace(
                        here[entry.digest], platform=entry.platform or here[entry.digest].platform
                    )
                    for entry in entries
                ]
                data = manifest.serialize_index(kept)
            return self._document(manifest.OCI_INDEX, data)
        return present[0].descriptor

    def _document(self, media_type: str, data: bytes) -> Descriptor:
        digest = digest_of(data)
        if digest not in self._written:
            self._written.add(digest)
            self._file(_path(digest), data, 0)
        return Descriptor(media_type, digest, len(data))

    def _manifest(
        self, image: Mapping[str, Any], diff_ids: tuple[str, ...], config_size: int
    ) -> tuple[str, Manifest, bytes]:
        """With the digest of the one that the image came with, if it is known."""
        described = Descriptor(manifest.OCI_CONFIG, image["id"], config_size)
        for digest in image["manifests"]:
            if self._content.has(digest):
                data = self._content.read(digest)
                document = manifest.parse(data)
                if (
                    isinstance(document, Manifest)
                    and document.config.digest == image["id"]
                    and all(self._content.has(layer.digest) for layer in document.layers)
                ):
                    if document.media_type != manifest.OCI_MANIFEST:
                        document, data = _as_oci(described, document.layers)
                    return digest, document, data
        layers = []
        for diff_id in diff_ids:
            kept = [blob for blob in image["layers"][diff_id] if self._content.has(blob[0])]
            if not kept:
                raise InternalError(f"the content of layer {diff_id} is missing")
            digest, media_type, size = kept[0]
            layers.append(Descriptor(media_type, digest, size))
        return ("", *_as_oci(described, layers))

    def _blob(self, digest: str, mtime: int) -> None:
        if digest in self._written:
            return
        self._written.add(digest)
        fd = self._content.open(digest)
        try:
            size = os.fstat(fd).st_size
            self._header(_path(digest), tar.REGULAR, size, mtime)
            while data := os.read(fd, PIECE):
                self._stream.write(data)
            self._stream.write(bytes(-size % tar.BLOCK))
        finally:
            os.close(fd)

    def _json(self, name: str, value: object) -> None:
        self._file(name, json.dumps(value, separators=(",", ":")).encode(), 0)

    def _file(self, name: str, data: bytes, mtime: int) -> None:
        self._header(name, tar.REGULAR, len(data), mtime)
        self._stream.write(data + bytes(-len(data) % tar.BLOCK))

    def _directory(self, name: str) -> None:
        self._header(name, tar.DIRECTORY, 0, 0)

    def _header(self, name: str, kind: bytes, size: int, mtime: int) -> None:
        mode = 0o755 if kind == tar.DIRECTORY else 0o644
        entry = tar.Entry(name.encode(), kind, mode, 0, 0, size, mtime * 10**9)
        self._stream.write(tar.header(entry))


def _as_oci(described: Descriptor, layers: Sequence[Descriptor]) -> tuple[Manifest, bytes]:
    layers = [
        replace(layer, media_type=_OCI_TYPES.get(layer.media_type, layer.media_type))
        for layer in layers
    ]
    data = manifest.serialize(manifest.OCI_MANIFEST, described, layers)
    return Manifest(manifest.OCI_MANIFEST, described, tuple(layers)), data


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
