"""Worker: downloads layers' blobs into the content store.

A blob is downloaded once, however many pulls want it at once; a broken connection is resumed where
it broke (Range), a wrong digest is given one more try from the start. Hashing and writing happen in
a thread, a megabyte at a time, while the next one arrives.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from common.errors import InternalError
from images.content import ContentStore, DigestMismatch, Ingest
from images.manifest import Descriptor
from images.registry import TRANSPORT_ERRORS, Registry, RegistryError, describe, is_temporary, pause
from images.sharing import SharedTasks

BATCH = 1 << 20
PROGRESS_SECONDS = 0.1
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass(frozen=True, slots=True)
class Download:
    """How far a download is; ``status`` is Docker's word for it."""

    status: str
    current: int | None = None
    total: int | None = None


Report = Callable[[Download], None]


class Transfers:
    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._shared: SharedTasks[None, Download] = SharedTasks()
        self._slots: dict[int, asyncio.Semaphore] = {}

    async def fetch(
        self,
        registry: Registry,
        blob: Descriptor,
        *,
        slots: int,
        attempts: int,
        progress: Report,
    ) -> None:
        """Have ``blob`` in the content store. Lease it first."""
        if self._content.has(blob.digest) and self._content.size(blob.digest) == blob.size:
            progress(Download("Download complete"))
            return
        slot = self._slots.setdefault(slots, asyncio.Semaphore(slots))

        async def download(report: Report) -> None:
            registry.retain()
            try:
                if slot.locked():
                    report(Download("Waiting"))
                async with slot:
                    await self._download(registry, blob, attempts, report)
            finally:
                await registry.close()

        await self._shared.run(blob.digest, download, progress)

    async def _download(
        self, registry: Registry, blob: Descriptor, attempts: int, report: Report
    ) -> None:
        attempt, mismatches = 0, 0
        with self._content.ingest() as ingest:
            while True:
                attempt += 1
                before = ingest.size
                try:
                    await _receive(registry, blob, ingest, report)
                    report(Download("Verifying Checksum"))
                    ingest.commit(blob.digest, blob.size)
                    break
                except DigestMismatch:
                    mismatches += 1
                    if mismatches > 1:
                        raise
                    ingest.restart()
                except (RegistryError, *TRANSPORT_ERRORS) as e:
                    if ingest.size > before:
                        attempt = 1  # it goes on, slowly: only attempts in vain count
                    if attempt >= attempts or not is_temporary(e):
                        raise _final(e) from e
                    report(Download(f"Retrying in {min(30, 2 ** (attempt - 1))} seconds"))
                    await pause(attempt, e)
        report(Download("Download complete"))


async def _receive(registry: Registry, blob: Descriptor, ingest: Ingest, report: Report) -> None:
    """Append what is missing of ``blob`` to ``ingest``."""
    if ingest.size == blob.size and blob.size:
        return
    headers = {"Range": f"bytes={ingest.size}-"} if ingest.size else {}
    url = registry.url(f"blobs/{blob.digest}")
    async with registry.request("GET", url, headers=headers, expected=(200, 206, 416)) as response:
        if ingest.size and not _continues(response, ingest.size):
            ingest.restart()
            if response.status == 416:
                raise aiohttp.ClientPayloadError("range not satisfiable")
        await _store(response, blob, ingest, report)
    if ingest.size < blob.size:
        raise aiohttp.ClientPayloadError("unexpected EOF")


def _continues(response: aiohttp.ClientResponse, offset: int) -> bool:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return response.status == 206 and match is not None and int(match[1]) == offset


async def _store(
    response: aiohttp.ClientResponse, blob: Descriptor, ingest: Ingest, report: Report
) -> None:
    received, due = ingest.size, 0.0
    batch = bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        async for piece in response.content.iter_any():
            received += len(piece)
            if received > blob.size:
                raise DigestMismatch(f"content of {blob.digest} is longer than {blob.size} bytes")
            batch += piece
            if len(batch) >= BATCH:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(asyncio.to_thread(ingest.write, batch))
                batch = bytearray()
            if time.monotonic() >= due:
                report(Download("Downloading", received, blob.size))
                due = time.monotonic() + PROGRESS_SECONDS
    finally:
        # Also after a failure: what arrived in full is where the next attempt goes on.
        if writing is not None:
            await asyncio.shield(writing)
        ingest.write(batch)
    report(Download("Downloading", received, blob.size))


def _final(error: BaseException) -> InternalError:
    if isinstance(error, RegistryError):
        return error
    return InternalError(describe(error))
