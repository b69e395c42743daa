"""Worker: one request of lifecycle's, while it is being served.

Carries the request's arguments and descriptors, its progress back to lifecycle, and leases: before
the worker relies on a layer or a blob that is on disk, it leases it, and lifecycle does not collect
it until the operation is over.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from images.channel import Message
from images.model import Progress


class Operation:
    def __init__(
        self, number: int, request: Message, fds: list[int], send: Callable[[Message], None]
    ) -> None:
        self.number = number
        self.arguments: dict[str, Any] = request["arguments"]
        self.fds = fds
        self._send = send
        self._leases: dict[int, asyncio.Future[None]] = {}
        self._last_lease = 0

    def progress(self, line: Progress) -> None:
        members = {key: value for key, value in asdict(line).items() if value not in ("", None)}
        self._send({"id": self.number, "progress": members})

    async def lease(self, layers: Iterable[str], blobs: Iterable[str]) -> None:
        self._last_lease += 1
        granted = asyncio.get_running_loop().create_future()
        self._leases[self._last_lease] = granted
        self._send(
            {
                "id": self.number,
                "lease": self._last_lease,
                "layers": list(layers),
                "blobs": list(blobs),
            }
        )
        await granted

    def lease_granted(self, number: int) -> None:
        future = self._leases.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []
