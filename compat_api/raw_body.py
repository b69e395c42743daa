"""longshored: the body of an upload that is left on the client's connection, for others to read.

``docker cp`` sends a tar in chunks of HTTP/1.1. Where the connection can be given away, aiohttp
only sees the request's head: what follows is kept back here, and goes to lifecycle with a duplicate
of the client's socket. A body that cannot go that way, because it is compressed, say, is given to
aiohttp after all, as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from compat_api.transfer import send_descriptor
from lifecycle._pb import types_pb2 as pb

if TYPE_CHECKING:
    from common.paths import Paths
    from compat_api.connection import Connection

# What a tar may be compressed with: gzip, bzip2, xz, zstd and its skippable frames.
COMPRESSED = (
    *(b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"),
    *(bytes((first, 0x2A)) for first in range(0x50, 0x60)),
)
LONGEST = 6
KEPT = 1 << 20
END = b"0\r\n\r\n"


def is_wanted(head: bytes) -> bool:
    """Whether ``head`` begins an upload in chunks into a container."""
    path = head[4 : head.find(b" ", 4)].partition(b"?")[0]
    lines = head.lower().split(b"\r\n")
    return (
        path.endswith(b"/archive")
        and b"transfer-encoding: chunked" in lines
        and not any(line.startswith((b"expect:", b"content-encoding:")) for line in lines)
    )


class RawBody:
    """Owned by the connection that it belongs to, until ``release`` or ``finish``."""

    def __init__(self, connection: Connection, early: bytes) -> None:
        self._connection = connection
        self._data = bytearray(early)
        self._news = asyncio.Event()
        self._dropping = False

    def data_received(self, data: bytes) -> None:
        if self._dropping:
            return
        self._data += data
        self._news.set()
        if len(self._data) >= KEPT:
            self._transport.pause_reading()

    async def is_plain(self) -> bool:
        """Whether the content is a tar as it is; waits for its first bytes."""
        while True:
            size, newline, content = bytes(self._data[:256]).partition(b"\r\n")
            if newline and (len(content) >= LONGEST or size.strip(b"0") == b""):
                return len(content) >= LONGEST and not content.startswith(COMPRESSED)
            if len(self._data) >= 256:
                return False
            self._news.clear()
            await self._news.wait()

    async def offer(self, paths: Paths) -> pb.Stream:
        """Send the connection to lifecycle; the message names it in a call."""
        self._transport.pause_reading()
        token = await send_descriptor(paths, self._transport.get_extra_info("socket").fileno())
        return pb.Stream(token=token, chunked=True, early=bytes(self._data))

    def release(self) -> None:
        """It is aiohttp's after all."""
        self._connection.raw_body = None
        self._connection.data_received(bytes(self._data))
        self._transport.resume_reading()

    def finish(self) -> None:
        """It has been read to its end: tell aiohttp of the end."""
        self._connection.raw_body = None
        self._connection.data_received(END)
        self._transport.resume_reading()

    def drop(self) -> None:
        """Nobody wants the rest: let the client get rid of it, and read the answer."""
        self._dropping = True
        self._transport.resume_reading()

    def handler_ended(self) -> None:
        """Of a request that no handler looked into: aiohttp reads on, and drops it."""
        if not self._dropping and self._connection.transport is not None:
            self.release()

    @property
    def _transport(self) -> asyncio.Transport:
        transport = self._connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        assert isinstance(transport, asyncio.Transport)
        return transport
