"""Worker: ``docker pull`` of one reference.

Manifest, platform, configuration; then all layers at once, each downloaded and unpacked
independently of the others. The order in which a layer's lines of progress come is Docker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import InternalError, InvalidArgument, NotFound, Unauthenticated
from common.ids import short
from images import config, manifest, reference
from images.content import ContentStore, DigestMismatch, digest_of
from images.endpoints import RegistryOptions
from images.layers import Layers, Unpacking
from images.manifest import Descriptor, Index, Manifest
from images.model import AuthConfig, ImageRecord, LayerRecord, Platform, Progress
from images.operation import Operation
from images.reference import Reference
from images.registry import Registry, RegistryError, ask
from images.sharing import SharedTasks
from images.taskgroup import TaskGroup
from images.transfer import Download, Transfers

_LAYER_TYPES = frozenset(
    (
        manifest.DOCKER_LAYER,
        manifest.DOCKER_LAYER_GZIP,
        manifest.OCI_LAYER,
        manifest.OCI_LAYER_GZIP,
        manifest.OCI_LAYER_ZSTD,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    )
)
_CONFIG_TYPES = frozenset((manifest.DOCKER_CONFIG, manifest.OCI_CONFIG, ""))


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference is, as far as the manifests tell."""

    manifest: Manifest
    data: bytes
    digest: str  # of what the reference names
    index: bytes = b""


class Pull:
    def __init__(self, content: ContentStore, layers: Layers, transfers: Transfers) -> None:
        self._content = content
        self._layers = layers
        self._transfers = transfers
        self._configurations: SharedTasks[bytes, None] = SharedTasks()

    async def run(self, operation: Operation) -> dict[str, Any]:
        arguments = operation.arguments
        name = reference.parse(arguments["reference"]).with_default_tag()
        auth = AuthConfig(**arguments["auth"]) if arguments["auth"] else None
        options = RegistryOptions.from_json(arguments["options"])

        async def pull(registry: Registry) -> dict[str, Any]:
            return await self._pull(operation, registry, name, options)

        try:
            return await ask(name, auth, options, pull)
        except RegistryError as e:
            raise translate(e, name) from e

    async def _pull(
        self, operation: Operation, registry: Registry, name: Reference, options: RegistryOptions
    ) -> dict[str, Any]:
        platform = operation.arguments["platform"]
        wanted = Platform.parse(platform) if platform else Platform.of_host()
        resolved = await _resolve(registry, name, wanted)
        operation.progress(Progress(f"Pulling from {name.path}", name.digest or name.tag or ""))
        _check_types(resolved.manifest)
        descriptor = resolved.manifest.config
        configuration = await self._configuration(operation, registry, descriptor)
        parsed = config.parse(configuration)
        if len(parsed.diff_ids) != len(resolved.manifest.layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(parsed.diff_ids)},"
                f" got {len(resolved.manifest.layers)}"
            )
        chain_ids = config.chain_ids(parsed.diff_ids)
        digests = [digest_of(data) for data in (resolved.data, resolved.index) if data]
        blobs = [layer.digest for layer in resolved.manifest.layers]
        await operation.lease(chain_ids, [descriptor.digest, *digests, *blobs])
        records = await self._all_layers(operation, registry, options, resolved, parsed.diff_ids)
        for data in (resolved.data, resolved.index):
            if data:
                self._content.add(data)
        await asyncio.to_thread(self._content.sync)
        record = ImageRecord(
            id=descriptor.digest,
            layers=tuple(records),
            manifest=digests[0],
            index=digests[1] if resolved.index else "",
        )
        return {"image": asdict(record), "digest": resolved.digest}

    async def _configuration(
        self, operation: Operation, registry: Registry, descriptor: Descriptor
    ) -> bytes:
        """Downloaded once, like a layer, however many pulls want it at once."""
        digest = descriptor.digest
        await operation.lease((), [digest])
        with suppress(NotFound, DigestMismatch):  # what is missing or damaged is fetched again
            return self._content.read(digest)

        async def download(_report: Callable[[None], None]) -> bytes:
            registry.retain()
            try:
                data = await registry.blob(digest)
            finally:
                await registry.close()
            if digest_of(data) != digest:
                raise DigestMismatch(f"image config verification failed for digest {digest}")
            self._content.add(data)  # at once: the next pull may come before this one has ended
            return data

        return await self._configurations.run(digest, download, lambda _nothing: None)

    async def _all_layers(
        self,
        operation: Operation,
        registry: Registry,
        options: RegistryOptions,
        resolved: Resolved,
        diff_ids: tuple[str, ...],
    ) -> list[LayerRecord]:
        chain_ids = config.chain_ids(diff_ids)
        layers = resolved.manifest.layers
        present = {
            chain_id
            for blob, chain_id in zip(layers, chain_ids, strict=True)
            if self._layers.size(chain_id) is not None
            and blob.digest not in operation.arguments["missing"]
        }
        if len(present) < len(chain_ids):  # of an image that is here Docker shows no layers
            announced = {
                blob.digest: "Already exists" if chain_id in present else "Pulling fs layer"
                for blob, chain_id in zip(layers, chain_ids, strict=True)
            }
            for digest, status in announced.items():
                operation.progress(Progress(status, short(digest)))
        async with TaskGroup() as group:
            tasks = [
                group.create_task(
                    self._layer(operation, registry, options, blob, diff_id, chain_id)
                )
                for blob, diff_id, chain_id in zip(layers, diff_ids, chain_ids, strict=True)
            ]
        parents = (None, *chain_ids)
        return [
            LayerRecord(
                chain_id=chain_id,
                diff_id=diff_id,
                parent=parent,
                size=task.result(),
                blob=blob.digest if self._content.has(blob.digest) else "",
                blob_size=blob.size,
                media_type=blob.media_type,
            )
            for blob, diff_id, chain_id, parent, task in zip(
                layers, diff_ids, chain_ids, parents, tasks, strict=False
            )
        ]

    async def _layer(
        self,
        operation: Operation,
        registry: Registry,
        options: RegistryOptions,
        blob: Descriptor,
        diff_id: str,
        chain_id: str,
    ) -> int:
        line = short(blob.digest)
        size = self._layers.size(chain_id)
        if size is not None and blob.digest not in operation.arguments["missing"]:
            return size

        def downloading(state: Download) -> None:
            operation.progress(Progress(state.status, line, state.current, state.total))

        def unpacking(state: Unpacking) -> None:
            operation.progress(Progress("Extracting", line, state.current, state.total))

        await self._transfers.fetch(
            registry,
            blob,
            slots=options.max_downloads,
            attempts=options.max_attempts,
            progress=downloading,
        )
        size = await self._layers.ensure(chain_id, diff_id, blob.digest, unpacking)
        operation.progress(Progress("Pull complete", line))
        return size


async def _resolve(registry: Registry, name: Reference, wanted: Platform) -> Resolved:
    fetched = await registry.manifest(name.digest or name.tag or "")
    digest = digest_of(fetched.data)
    if name.digest is not None and digest != name.digest:
        raise DigestMismatch(f"manifest verification failed for digest {name.digest}")
    document = manifest.parse(fetched.data, fetched.content_type)
    if isinstance(document, Manifest):
        return Resolved(document, fetched.data, digest)
    chosen = manifest.choose(document, wanted)
    if chosen is None:
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    inner = await registry.manifest(chosen.digest)
    if digest_of(inner.data) != chosen.digest:
        raise DigestMismatch(f"manifest verification failed for digest {chosen.digest}")
    below = manifest.parse(inner.data, inner.content_type)
    if isinstance(below, Index):
        raise InvalidArgument("invalid manifest list: it contains another one")
    return Resolved(below, inner.data, digest, index=fetched.data)


def _check_types(document: Manifest) -> None:
    if document.config.media_type not in _CONFIG_TYPES:
        raise InvalidArgument(
            f"unsupported media type {document.config.media_type[:200]}: not a container image"
        )
    for layer in document.layers:
        if layer.media_type not in _LAYER_TYPES:
            raise InvalidArgument(f"unsupported layer media type {layer.media_type[:200]!r}")


def translate(error: RegistryError, name: Reference) -> InternalError | NotFound | Unauthenticated:
    """The registry's error in the words that Docker's clients look for."""
    if error.error_code == "MANIFEST_UNKNOWN" or (error.status == 404 and not error.error_code):
        return NotFound(f"manifest for {name.familiar} not found: {error}")
    if error.error_code == "NAME_UNKNOWN":
        return NotFound(f"repository {name.familiar_name} not found: {error}")
    if error.error_code == "DENIED" or error.status in (401, 403):
        return NotFound(
            f"pull access denied for {name.familiar_name}, repository does not exist or may require"
            f" 'docker login': {error}"
        )
    return error
