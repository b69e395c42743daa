"""Worker: image manifests and indexes, Docker's and OCI's, parsed and written.

They come from registries and archives and are hostile: a document must be what its media type says,
never both a manifest and an index (CVE-2021-41190), and a digest is checked for its form before any
use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument, NotSupported
from images.config import LAYERS_LIMIT, load_object, member
from images.model import Platform
from images.reference import DIGEST

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
SIZE_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    manifests: tuple[Descriptor, ...]


def parse(data: bytes, content_type: str = "") -> Manifest | Index:
    """``content_type`` is what the transport said; the document must agree if it says anything."""
    root = load_object(data, "manifest")
    sent = content_type.partition(";")[0].strip().lower()
    media_type = member(root, "mediaType", str, "")
    if root.get("schemaVersion") == 1 or sent.startswith(SCHEMA1):
        raise NotSupported(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are no longer"
            " supported: ask the author of the image to rebuild it"
        )
    if media_type and sent in (*MANIFESTS, *INDEXES) and media_type != sent:
        raise InvalidArgument(f"manifest is of type {media_type}, but was sent as {sent}")
    if "manifests" in root and ("layers" in root or "config" in root):
        raise InvalidArgument("invalid manifest: it is an index and a manifest at once")
    kind = media_type or (sent if sent in (*MANIFESTS, *INDEXES) else "")
    if not kind:
        kind = OCI_INDEX if "manifests" in root else OCI_MANIFEST
    if kind in INDEXES:
        manifests = member(root, "manifests", list, [])
        return Index(kind, tuple(_descriptor(item) for item in manifests))
    if kind not in MANIFESTS:
        raise NotSupported(f"unsupported manifest media type {kind[:200]!r}")
    layers = member(root, "layers", list, [])
    if len(layers) > LAYERS_LIMIT:
        raise InvalidArgument(f"invalid manifest: more than {LAYERS_LIMIT} layers")
    return Manifest(kind, _descriptor(root.get("config")), tuple(map(_descriptor, layers)))


def _descriptor(value: object) -> Descriptor:
    if not isinstance(value, dict):
        raise InvalidArgument("invalid manifest: a descriptor is not an object")
    digest = member(value, "digest", str, "")
    size = member(value, "size", int, -1)
    if not DIGEST.fullmatch(digest) or not 0 <= size <= SIZE_LIMIT:
        raise InvalidArgument(f"invalid manifest: descriptor of {digest[:100]!r}, {size} bytes")
    annotations = member(value, "annotations", dict, {})
    return Descriptor(
        media_type=member(value, "mediaType", str, ""),
        digest=digest,
        size=size,
        platform=_platform(member(value, "platform", dict, {})),
        annotations={key: text for key, text in annotations.items() if isinstance(text, str)},
    )


def _platform(value: Mapping[str, Any]) -> Platform | None:
    if not value:
        return None
    return Platform(
        member(value, "os", str, ""),
        member(value, "architecture", str, ""),
        member(value, "variant", str, ""),
        member(value, "os.version", str, ""),
    )


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The manifest for the platform: the best that its CPU runs, the first of equals."""
    ranks = [
        (rank, position)
        for position, entry in enumerate(index.manifests)
        if entry.platform is not None and (rank := wanted.rank(entry.platform)) is not None
    ]
    if ranks:
        return index.manifests[min(ranks)[1]]
    return next((entry for entry in index.manifests if entry.platform is None), None)


def serialize(media_type: str, config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    root = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor_json(config),
        "layers": [descriptor_json(layer) for layer in layers],
    }
    return json.dumps(root, separators=(",", ":")).encode()


def serialize_index(manifests: Sequence[Descriptor]) -> bytes:
    root = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor_json(entry) for entry in manifests],
    }
    return json.dumps(root, separators=(",", ":")).encode()


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    members: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        members["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        members["platform"] = {
            "architecture": descriptor.platform.architecture,
            "os": descriptor.platform.os,
        }
        if descriptor.platform.variant:
            members["platform"]["variant"] = descriptor.platform.variant
    return members
