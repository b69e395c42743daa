"""Worker: from a layer's blob to a layer that overlayfs can use.

One layer is unpacked once, however many operations want it at the same time: they share a task,
which is cancelled when the last of them is. Layers do not depend on each other on disk (whiteouts
are overlayfs's own), so those of one image are unpacked in parallel.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import InvalidArgument
from images.content import ContentStore
from images.sharing import SharedTasks
from images.snapshots import OVERLAY, Snapshots, mark_opaque
from images.unpackers import Unpackers


@dataclass(frozen=True, slots=True)
class Unpacking:
    """How far an unpacking is, in bytes of the blob."""

    current: int
    total: int


class Layers:
    def __init__(self, content: ContentStore, snapshots: Snapshots, unpackers: Unpackers) -> None:
        self._content = content
        self._snapshots = snapshots
        self._unpackers = unpackers
        self._shared: SharedTasks[int, Unpacking] = SharedTasks()

    def size(self, chain_id: str) -> int | None:
        """The layer's size if it is there. Lease it first."""
        return self._snapshots.layer_size(chain_id)

    async def ensure(
        self, chain_id: str, diff_id: str, blob: str, progress: Callable[[Unpacking], None]
    ) -> int:
        """Unpack ``blob`` unless the layer is there; its size."""
        size = self.size(chain_id)
        if size is not None:
            return size

        async def unpack(report: Callable[[Unpacking], None]) -> int:
            archive = self._content.open(blob)
            try:
                return await self._unpack(archive, chain_id, diff_id, report)
            finally:
                os.close(archive)

        return await self._shared.run(chain_id, unpack, progress)

    async def unpack_unknown(self, archive: int) -> Bottom:
        """Unpack an archive whose digest nobody knows yet, as the bottom layer of an image."""
        partial = self._snapshots.new_partial()
        try:
            size, diff_id = await self._fill(partial, archive, _ignore, whiteouts=False)
            return Bottom(self._snapshots, partial, diff_id, size)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, partial)
            raise

    async def _unpack(
        self, archive: int, chain_id: str, diff_id: str, report: Callable[[Unpacking], None]
    ) -> int:
        partial = self._snapshots.new_partial()
        try:
            overlay = self._snapshots.driver == OVERLAY
            size, found = await self._fill(partial, archive, report, whiteouts=overlay)
            if found != diff_id:
                raise InvalidArgument(
                    f"failed to register layer: layer has digest {found}, the image says {diff_id}"
                )
            self._snapshots.commit_layer(partial, chain_id, size=size)
            return size
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
            raise

    async def _fill(
        self,
        partial: Path,
        archive: int,
        report: Callable[[Unpacking], None],
        *,
        whiteouts: bool,
    ) -> tuple[int, str]:
        total = os.fstat(archive).st_size
        directory = os.open(partial / "fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpacked = await self._unpackers.unpack(
                archive,
                directory,
                progress=lambda consumed: report(Unpacking(consumed, total)),
                whiteouts=whiteouts,
            )
            mark_opaque(directory, unpacked.opaque)
        finally:
            os.close(directory)
        report(Unpacking(total, total))
        return unpacked.size, unpacked.diff_id


class Bottom:
    """A bottom layer that is unpacked but has no name yet; removed unless committed."""

    def __init__(self, snapshots: Snapshots, partial: Path, diff_id: str, size: int) -> None:
        self.diff_id = diff_id
        self.size = size
        self._snapshots = snapshots
        self._partial = partial

    def commit(self) -> None:
        self._snapshots.commit_layer(self._partial, self.diff_id, size=self.size)

    def __enter__(self) -> Bottom:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._partial.exists():
            shutil.rmtree(self._partial)


def _ignore(_state: Unpacking) -> None:
    pass
