"""Library: removes layers and blobs that nothing needs, but none that an operation relies on.

An operation leases what it found on disk, or is about to put there, until its image is committed. A
layer leaves its place by a rename in lifecycle's loop, so that a lease taken afterwards finds it
gone; the slow part, removing the files, happens in a thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from images.content import ContentStore
from images.snapshots import Snapshots
from images.store import ImageStore


class Collector:
    def __init__(self, store: ImageStore, content: ContentStore, snapshots: Snapshots) -> None:
        self._store = store
        self._content = content
        self._snapshots = snapshots
        self._held: dict[int, list[str]] = {}
        self._counts: Counter[str] = Counter()

    # ---- leases (the Leases protocol of images/client.py)

    def lease(self, operation: int, layers: Sequence[str], blobs: Sequence[str]) -> None:
        names = [f"layer {name}" for name in layers] + [f"blob {name}" for name in blobs]
        self._held.setdefault(operation, []).extend(names)
        self._counts.update(names)

    def release(self, operation: int) -> list[str]:
        """End the operation's leases; what was held by no other."""
        freed = []
        for name in self._held.pop(operation, []):
            self._counts[name] -= 1
            if self._counts[name] <= 0:
                del self._counts[name]
                freed.append(name)
        return freed

    # ---- collecting

    def start(self) -> None:
        """Remove what a crash left; blocking, before anything else runs."""
        for partial in self._snapshots.partials():
            self._snapshots.discard(partial)
        self._store.remove_unused_layers(lambda _chain_id: False)
        known = {chain.removeprefix("sha256:") for chain in self._store.known_layers()}
        known |= self._store.containers()
        for name in list(self._snapshots.names()):
            if name not in known:
                orphan = self._snapshots.detach(name)
                if orphan is not None:
                    self._snapshots.discard(orphan)
        self._snapshots.prune_links()
        self._content.collect(self._store.known_blobs())

    @asynccontextmanager
    async def operation(self, number: int) -> AsyncIterator[int]:
        """Its leases last until the block, in which its image is committed, is left."""
        try:
            yield number
        finally:
            await self.end_operation(number)

    async def end_operation(self, operation: int) -> None:
        """Release the leases, and remove what the operation made but no image came to need."""
        freed = self.release(operation)
        await self.collect(
            layers=[name.removeprefix("layer ") for name in freed if name.startswith("layer ")],
            blobs=[name.removeprefix("blob ") for name in freed if name.startswith("blob ")],
        )

    async def collect(self, *, layers: Sequence[str] = (), blobs: Iterable[str] = ()) -> list[str]:
        """Remove all unneeded layers and, of those named, whatever the store does not know.

        ``blobs`` are those that were known before rows of images went. Returns the layers that the
        store gave up, each before its parent.
        """
        candidates = {*blobs, *self._store.known_blobs()}
        unused = self._store.remove_unused_layers(lambda c: self._counts[f"layer {c}"] > 0)
        known_layers, known_blobs = self._store.known_layers(), self._store.known_blobs()
        detached: list[Path] = []
        for chain_id in dict.fromkeys((*unused, *layers)):
            if chain_id not in known_layers and not self._counts[f"layer {chain_id}"]:
                partial = self._snapshots.detach(chain_id)
                if partial is not None:
                    detached.append(partial)
        for digest in candidates - known_blobs:
            if not self._counts[f"blob {digest}"]:
                self._content.remove(digest)
        for partial in detached:
            await asyncio.to_thread(self._snapshots.discard, partial)
        return unused

    async def discard_container(self, container_id: str) -> None:
        partial = self._snapshots.detach(container_id)
        if partial is not None:
            await asyncio.to_thread(self._snapshots.discard, partial)
