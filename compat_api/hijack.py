"""longshored: a client's connection taken out of HTTP, for attach and exec.

Over a unix socket or plain TCP lifecycle gets a duplicate of the client's socket, and longshored
is out of the way. Over TLS it gets one end of a socketpair, and a relay here moves the bytes. The
bytes on the connection after the request's head belong to the stream, whoever reads them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import cast

from aiohttp import web

from compat_api.connection import PLAIN_HEADER, Connection
from compat_api.relay import Relay
from compat_api.request import COMMON_HEADERS, Request
from compat_api.transfer import send_descriptor
from lifecycle._pb import types_pb2

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
STDOUT = 1
STDERR = 2


class Gone(web.StreamResponse):
    """The answer of a handler whose connection is not HTTP any more: writes nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class Hijack:
    """The connection of one request. After ``take`` it is not HTTP's any more."""

    def __init__(self, request: Request) -> None:
        self._request = request
        headers = request.http.headers
        self._upgrade = "Upgrade" in headers and PLAIN_HEADER not in headers
        self._connection = cast(Connection, request.http.protocol)
        self._socket: socket.socket | None = None
        self._relay: Relay | None = None

    def take(self) -> None:
        transport = self._transport()
        transport.pause_reading()
        if transport.get_extra_info("ssl_object") is None:
            self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        else:
            self._relay = Relay(transport)

    def head(self, *, tty: bool, common: bool = False) -> bytes:
        """What stands before the stream; ``common``: with the headers of every answer."""
        if self._upgrade:
            content_type = self._request.content_type(RAW if tty else MULTIPLEXED)
            lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {content_type}"]
            lines += ["Connection: Upgrade", "Upgrade: tcp"]
        else:
            lines = ["HTTP/1.1 200 OK", f"Content-Type: {RAW}"]
        if common:
            lines += [f"{name}: {value}" for name, value in COMMON_HEADERS.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    async def offer(self, *, heads: bool = True, common: bool = False) -> types_pb2.HijackedStream:
        """Send the connection to lifecycle; the message names it in a call."""
        if self._relay is not None:
            descriptor = self._relay.far_end.fileno()
        else:
            assert self._socket is not None
            descriptor = self._socket.fileno()
        token = await send_descriptor(self._request.engine.paths, descriptor)
        return types_pb2.HijackedStream(
            token=token,
            head_tty=self.head(tty=True, common=common) if heads else b"",
            head_plain=self.head(tty=False, common=common) if heads else b"",
            early=self._connection.take_early(),
        )

    def write(self, data: bytes) -> None:
        self._transport().write(data)

    async def hand_over(self) -> Gone:
        """The stream is lifecycle's: end this side of it, or relay until both sides have ended."""
        if self._relay is not None:
            await self._relay.run(self._connection)
            return Gone()
        assert self._socket is not None
        self._socket.close()
        # Closes our descriptor and nothing else: the connection lives on in the duplicate.
        self._transport().abort()
        return Gone()

    async def hold(self) -> Gone:
        """Keep the connection, with nothing to say on it, until the client leaves."""
        transport = self._transport()
        watcher = _Watcher(self._connection)
        transport.set_protocol(watcher)
        transport.resume_reading()
        await watcher.left
        return self.end()

    def give_back(self) -> None:
        """The connection is HTTP's again, as nothing has been done with it."""
        if self._socket is not None:
            self._socket.close()
        if self._relay is not None:
            self._relay.close()
        self._transport().resume_reading()

    def end(self) -> Gone:
        """End the stream from here, after what was written."""
        if self._socket is not None:
            self._socket.close()
        if self._relay is not None:
            self._relay.close()
        transport = self._request.http.transport
        if transport is not None:
            if transport.can_write_eof():
                # Lifecycle may have a duplicate that a failed call did not claim; closing ours
                # would not end the connection then.
                transport.write_eof()
            transport.close()
        return Gone()

    def fail(self, status: int, message: str) -> Gone:
        """Docker's form of an error on a connection that is, or was to be, attached."""
        reason = web.Response(status=status).reason
        self.write(
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {RAW}\r\n\r\n{message}\r\n".encode()
        )
        return self.end()

    def _transport(self) -> asyncio.Transport:
        transport = self._request.http.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        return transport


class _Watcher(asyncio.Protocol):
    """Sees the client leave, and drops what it sends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def eof_received(self) -> bool:
        if not self.left.done():
            self.left.set_result(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.eof_received()
        self._connection.connection_lost(error)


def frame(stream: int, data: bytes) -> bytes:
    """One frame of a multiplexed stream."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
