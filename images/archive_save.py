"""Worker: ``docker save``: an OCI image layout that is a Docker archive too, as since Docker 25.

Blobs are written as they are kept, compressed or not; every ``docker load`` takes both. The
manifest that an image came with is kept, so its digest survives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common import tar
from common.errors import InternalError
from images import config, manifest, reference
from images.content import ContentStore, digest_of
from images.listing import parse_time
from images.manifest import Descriptor, Manifest
from images.operation import Operation
from images.streams import ClientStream, in_thread

PIECE = 1 << 18
_OCI_TYPES = {
    manifest.DOCKER_LAYER: manifest.OCI_LAYER,
    manifest.DOCKER_LAYER_GZIP: manifest.OCI_LAYER_GZIP,
    manifest.DOCKER_CONFIG: manifest.OCI_CONFIG,
}


class Save:
    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def run(self, operation: Operation) -> dict[str, Any]:
        blobs = [
            digest
            for image in operation.arguments["images"]
            for kept in image["layers"].values()
            for digest, _, _ in kept
        ]
        manifests = [m for image in operation.arguments["images"] for m in image["manifests"]]
        ids = [image["id"] for image in operation.arguments["images"]]
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
        self._index: list[dict[str, Any]] = []
        self._docker: list[dict[str, Any]] = []
        self._repositories: dict[str, dict[str, str]] = {}

    def write(self, images: list[dict[str, Any]]) -> None:
        self._directory("blobs/")
        self._directory("blobs/sha256/")
        for image in images:
            self._image(image)
        index = {
            "schemaVersion": 2,
            "mediaType": manifest.OCI_INDEX,
            "manifests": self._index,
        }
        self._json("index.json", index)
        self._json("manifest.json", self._docker)
        self._file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0)
        if self._repositories:
            self._json("repositories", self._repositories)
        self._stream.write(tar.end())

    def _image(self, image: Mapping[str, Any]) -> None:
        configuration = self._content.read(image["id"])
        parsed = config.parse(configuration)
        created = parse_time(parsed.created or "") // 10**9
        document, data = self._manifest(image, parsed.diff_ids, len(configuration))
        self._blob(image["id"], created)
        for layer in document.layers:
            self._blob(layer.digest, created)
        digest = digest_of(data)
        if digest not in self._written:
            self._written.add(digest)
            self._file(_path(digest), data, 0)
        descriptor = Descriptor(document.media_type, digest, len(data))
        names = [reference.parse(name) for name in image["references"]]
        for name in names:
            annotations = {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag or "",
            }
            self._index.append(
                manifest.descriptor_json(replace(descriptor, annotations=annotations))
            )
            if parsed.diff_ids:
                top = config.chain_ids(parsed.diff_ids)[-1].removeprefix("sha256:")
                self._repositories.setdefault(name.familiar_name, {})[name.tag or ""] = top
        if not names:
            self._index.append(manifest.descriptor_json(descriptor))
        self._docker.append(
            {
                "Config": _path(image["id"]),
                "RepoTags": [name.familiar for name in names] or None,
                "Layers": [_path(layer.digest) for layer in document.layers],
                "LayerSources": {
                    diff_id: manifest.descriptor_json(layer)
                    for diff_id, layer in zip(parsed.diff_ids, document.layers, strict=True)
                },
            }
        )

    def _manifest(
        self, image: Mapping[str, Any], diff_ids: tuple[str, ...], config_size: int
    ) -> tuple[Manifest, bytes]:
        for digest in image["manifests"]:
            if self._content.has(digest):
                data = self._content.read(digest)
                document = manifest.parse(data)
                if (
                    isinstance(document, Manifest)
                    and document.config.digest == image["id"]
                    and all(self._content.has(layer.digest) for layer in document.layers)
                ):
                    return document, data
        layers = []
        for diff_id in diff_ids:
            kept = [blob for blob in image["layers"][diff_id] if self._content.has(blob[0])]
            if not kept:
                raise InternalError(f"the content of layer {diff_id} is missing")
            digest, media_type, size = kept[0]
            layers.append(Descriptor(_OCI_TYPES.get(media_type, media_type), digest, size))
        described = Descriptor(manifest.OCI_CONFIG, image["id"], config_size)
        data = manifest.serialize(manifest.OCI_MANIFEST, described, layers)
        return Manifest(manifest.OCI_MANIFEST, described, tuple(layers)), data

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


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
