"""longshored: moves the bytes of a hijacked stream where the client's socket cannot be given away.

That is over TLS. The far end of a socketpair is lifecycle's, the near end and the client's
transport are joined here, each at the pace of the other; an end of one direction is passed on
where TLS has such a thing, and both ends are closed when the process's side is at its end.
"""

from __future__ import annotations

import asyncio
import socket

from compat_api.connection import Connection


class _End(asyncio.Protocol):
    """One of the two ends; writes what it reads to the other's transport."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        other = self.other.transport if self.other is not None else None
        if other is not None and other.can_write_eof():
            other.write_eof()
            return True
        self._relay.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._relay.end_lost(self, error)


class Relay:
    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client
        self._near_end, self.far_end = socket.socketpair()
        self._near_end.setblocking(False)
        self._client_side = _End(self)
        self._process_side = _End(self)
        self._connection: Connection | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, connection: Connection) -> None:
        """Move bytes until both ends are closed; the far end is somebody else's from here."""
        self.far_end.close()
        self._connection = connection
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._process_side, sock=self._near_end)
        self._client_side.transport = self._client
        self._client_side.other = self._process_side
        self._process_side.other = self._client_side
        self._client.set_protocol(self._client_side)
        self._client.resume_reading()
        await self._done

    def close(self) -> None:
        self.far_end.close()
        if self._process_side.transport is None:
            self._near_end.close()
        for side in (self._client_side, self._process_side):
            if side.transport is not None:
                side.transport.close()

    def end_lost(self, side: _End, error: Exception | None) -> None:
        if side is self._client_side and self._connection is not None:
            # aiohttp has not seen its connection end.
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, error)
        self.close()
        if not self._done.done() and all(
            item.transport is None for item in (self._client_side, self._process_side)
        ):
            self._done.set_result(None)
