"""Worker: ``docker push`` of one tag.

The manifest that came with the image is pushed again as it is, if all its blobs are here; otherwise
one is made, and plain layers are compressed first, as registries expect. Blobs that the repository
has are not sent, and those of a repository on the same registry are mounted from there.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urljoin

from isal import isal_zlib

from common.errors import EngineError, InternalError, PermissionDenied
from common.ids import short
from images import config, manifest, reference
from images.content import ContentStore, digest_of
from images.endpoints import RegistryOptions
from images.manifest import Descriptor, Manifest
from images.model import AuthConfig, Progress
from images.operation import Operation
from images.registry import (
    TRANSPORT_ERRORS,
    Registry,
    RegistryError,
    ask,
    is_temporary,
    pause,
)
from images.taskgroup import TaskGroup

PIECE = 1 << 18
COMPRESSION_LEVEL = 1
PROGRESS_BYTES = 1 << 20
_PLAIN = frozenset((manifest.DOCKER_LAYER, manifest.OCI_LAYER))


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be in the repository afterwards."""

    manifest: bytes
    media_type: str
    config: Descriptor
    layers: tuple[tuple[str, Descriptor], ...]  # with the diff ids
    compressed: tuple[tuple[str, Descriptor], ...]  # made here: lifecycle notes them


class Push:
    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def run(self, operation: Operation) -> dict[str, Any]:
        arguments = operation.arguments
        name = reference.parse(arguments["reference"])
        auth = AuthConfig(**arguments["auth"]) if arguments["auth"] else None
        options = RegistryOptions.from_json(arguments["options"])

        async def push(registry: Registry) -> Planned:
            plan = await self._plan(operation)
            await self._push(operation, registry, options, plan, name.tag or "")
            return plan

        try:
            plan = await ask(name, auth, options, push, push=True)
        except RegistryError as e:
            raise _translate(e) from e
        digest = digest_of(plan.manifest)
        size = len(plan.manifest)
        self._content.add(plan.manifest)
        await asyncio.to_thread(self._content.sync)
        return {
            "digest": digest,
            "size": size,
            "compressed": [
                [diff_id, blob.digest, blob.media_type, blob.size]
                for diff_id, blob in plan.compressed
            ],
        }

    async def _plan(self, operation: Operation) -> Planned:
        image_id = operation.arguments["id"]
        known = {
            diff_id: [Descriptor(kind, digest, size) for digest, kind, size in blobs]
            for diff_id, blobs in operation.arguments["layers"].items()
        }
        await operation.lease(
            (), [image_id, *(blob.digest for blobs in known.values() for blob in blobs)]
        )
        configuration = self._content.read(image_id)
        diff_ids = config.parse(configuration).diff_ids
        for digest in operation.arguments["manifests"]:
            if planned := self._original(digest, image_id, diff_ids):
                return planned
        layers, compressed = [], []
        for diff_id in diff_ids:
            found = [blob for blob in known.get(diff_id, ()) if self._content.has(blob.digest)]
            ready = [blob for blob in found if blob.media_type not in _PLAIN]
            if not found:
                raise InternalError(f"the content of layer {diff_id} is missing")
            if ready:
                layers.append((diff_id, ready[0]))
                continue
            operation.progress(Progress("Preparing", short(diff_id)))
            made = await asyncio.to_thread(self._compress, found[0])
            await operation.lease((), [made.digest])
            compressed.append((diff_id, made))
            layers.append((diff_id, made))
        blobs = tuple(blob for _, blob in layers)
        docker = all(blob.media_type == manifest.DOCKER_LAYER_GZIP for blob in blobs)
        kind = manifest.DOCKER_MANIFEST if docker else manifest.OCI_MANIFEST
        config_type = manifest.DOCKER_CONFIG if docker else manifest.OCI_CONFIG
        if not docker:
            blobs = tuple(map(_as_oci, blobs))
        described = Descriptor(config_type, image_id, len(configuration))
        return Planned(
            manifest.serialize(kind, described, blobs),
            kind,
            described,
            tuple(layers),
            tuple(compressed),
        )

    def _original(self, digest: str, image_id: str, diff_ids: tuple[str, ...]) -> Planned | None:
        """The manifest that the image came with, if everything it names is here."""
        if not self._content.has(digest):
            return None
        data = self._content.read(digest)
        document = manifest.parse(data)
        if not isinstance(document, Manifest) or document.config.digest != image_id:
            return None
        if not all(self._content.has(layer.digest) for layer in document.layers):
            return None
        if any(layer.media_type in _PLAIN for layer in document.layers):
            return None
        layers = tuple(zip(diff_ids, document.layers, strict=True))
        return Planned(data, document.media_type, document.config, layers, ())

    def _compress(self, plain: Descriptor) -> Descriptor:
        """In a thread. The same input gives the same bytes: no time or name in the header."""
        fd = self._content.open(plain.digest)
        try:
            with self._content.ingest() as ingest:
                packer = isal_zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 31)
                while data := os.read(fd, PIECE):
                    ingest.write(packer.compress(data))
                ingest.write(packer.flush())
                digest = ingest.commit()
                return Descriptor(manifest.DOCKER_LAYER_GZIP, digest, ingest.size)
        finally:
            os.close(fd)

    async def _push(
        self,
        operation: Operation,
        registry: Registry,
        options: RegistryOptions,
        plan: Planned,
        tag: str,
    ) -> None:
        slots = asyncio.Semaphore(options.max_uploads)
        lines = dict.fromkeys(short(diff_id) for diff_id, _ in plan.layers)
        for line in lines:
            operation.progress(Progress("Preparing", line))
        unique = {blob.digest: (diff_id, blob) for diff_id, blob in plan.layers}
        upload = Upload(self._content, registry, operation, options.max_attempts)
        async with TaskGroup() as group:
            for diff_id, blob in unique.values():
                group.create_task(upload.blob(blob, short(diff_id), slots))
        await upload.blob(plan.config, "", slots)
        headers = {"Content-Type": plan.media_type}
        url = registry.url(f"manifests/{tag}")
        await upload.attempt(lambda: upload.put(url, headers, plan.manifest))


class Upload:
    """Sends blobs to one repository."""

    def __init__(
        self, content: ContentStore, registry: Registry, operation: Operation, attempts: int
    ) -> None:
        self._content = content
        self._registry = registry
        self._operation = operation
        self._attempts = attempts

    async def blob(self, blob: Descriptor, line: str, slots: asyncio.Semaphore) -> None:
        """Have it in the repository; a configuration has no ``line``."""

        def say(status: str, current: int | None = None) -> None:
            if line:
                total = None if current is None else blob.size
                self._operation.progress(Progress(status, line, current, total))

        if slots.locked():
            say("Waiting")
        async with slots:
            if await self._exists(blob.digest):
                say("Layer already exists")
                return
            source = await self._mount(blob.digest)
            if source:
                say(f"Mounted from {source}")
                return
            await self.attempt(lambda: self._send(blob, say))
            say("Pushed")

    async def attempt(self, work: Callable[[], Any]) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                await work()
            except (RegistryError, *TRANSPORT_ERRORS) as e:
                if attempt >= self._attempts or not is_temporary(e):
                    raise
                await pause(attempt, e)
            else:
                return

    async def put(self, url: str, headers: dict[str, str], data: Any) -> None:
        async with self._registry.request(
            "PUT", url, headers=headers, data=data, expected=(200, 201, 202, 204)
        ):
            pass

    async def _exists(self, digest: str) -> bool:
        url = self._registry.url(f"blobs/{digest}")
        try:
            async with self._registry.request("HEAD", url):
                return True
        except RegistryError as e:
            if e.status == 404:
                return False
            raise

    async def _mount(self, digest: str) -> str:
        """From another repository of this registry that is known to have it; its path, or ""."""
        for path in self._operation.arguments["sources"].get(digest, ()):
            query = urlencode({"mount": digest, "from": path})
            url = f"{self._registry.url('blobs/uploads/')}?{query}"
            with suppress(RegistryError):
                async with self._registry.request("POST", url, expected=(201, 202)) as response:
                    if response.status == 201:
                        return str(path)
                    location = urljoin(url, response.headers.get("Location", ""))
                await self._abandon(location)
        return ""

    async def _send(self, blob: Descriptor, say: Callable[[str, int | None], None]) -> None:
        start = self._registry.url("blobs/uploads/")
        async with self._registry.request("POST", start, expected=(202,)) as response:
            location = urljoin(start, response.headers.get("Location", ""))
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}{urlencode({'digest': blob.digest})}"
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(blob.size),
        }
        try:
            await self.put(url, headers, self._pieces(blob, say))
        except BaseException:
            with suppress(EngineError, *TRANSPORT_ERRORS):
                await asyncio.shield(self._abandon(location))
            raise

    async def _abandon(self, location: str) -> None:
        """Give an upload session up, so that the registry need not wait for it."""
        with suppress(RegistryError, *TRANSPORT_ERRORS):
            async with self._registry.request("DELETE", location, expected=(202, 204)):
                pass

    async def _pieces(
        self, blob: Descriptor, say: Callable[[str, int | None], None]
    ) -> AsyncIterator[bytes]:
        fd = self._content.open(blob.digest)
        sent, told = 0, -PROGRESS_BYTES
        try:
            while data := os.read(fd, PIECE):
                if sent - told >= PROGRESS_BYTES:
                    say("Pushing", sent)
                    told = sent
                yield data
                sent += len(data)
        finally:
            os.close(fd)
        say("Pushing", sent)


def _as_oci(blob: Descriptor) -> Descriptor:
    kinds = {manifest.DOCKER_LAYER_GZIP: manifest.OCI_LAYER_GZIP}
    return Descriptor(kinds.get(blob.media_type, blob.media_type), blob.digest, blob.size)


def _translate(error: RegistryError) -> EngineError:
    if error.error_code in ("DENIED", "UNAUTHORIZED") or error.status in (401, 403):
        return PermissionDenied(str(error))
    return error
