"""longshored: aiohttp's server and connection, with connections that can be given away.

Attach and exec leave HTTP: the client's socket goes to lifecycle and from there to the shim. What
the client sent behind its request may be read already, and must go along. Used by listeners.py
(which serves with ``Server``) and by hijack.py.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from compat_api.raw_body import RawBody, is_wanted

MAX_HELD = 64 << 10
# Of an upload; with less the two ends keep waiting for each other.
READ_AHEAD = 1 << 20

# Tells hijack.py that the client itself did not ask for an upgrade.
PLAIN_HEADER = "Longshore-Plain-Hijack"


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_held", "raw_body")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.raw_body: RawBody | None = None  # of the present request, if it is kept from aiohttp
        self._held = b""  # the begin of a request's head whose end has not come

    def data_received(self, data: bytes) -> None:
        if self.raw_body is not None:
            self.raw_body.data_received(data)
            return
        if self._held:
            data, self._held = self._held + data, b""
        # Only where a request begins: the bytes of an upload must pass as they are.
        if data.startswith(b"POST ") and self._begins_request():
            if b"\r\n\r\n" not in data and len(data) < MAX_HELD:
                self._held = data
                return
            data = as_upgrade(data)
        elif data.startswith(b"PUT ") and self._begins_request() and self._is_plain_socket():
            end = data.find(b"\r\n\r\n") + 4
            if end > 3 and is_wanted(data[:end]):
                self.raw_body = RawBody(self, data[end:])
                data = data[:end]
        super().data_received(data)

    def _begins_request(self) -> bool:
        return self._waiter is not None or self._request_count == 0

    def _is_plain_socket(self) -> bool:
        return self.transport is not None and not self.transport.get_extra_info("ssl_object")

    def take_early(self) -> bytes:
        """What came behind the head and body of an attach or exec request."""
        early, self._message_tail = self._message_tail, b""
        return early


class Server(web.Server):
    """aiohttp's low-level server, making our connections."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


def serve(handler: Any) -> Server:
    """A server for one listener; call it in the event loop."""
    return Server(
        handler,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,  # an uploaded tar.gz is the image store's to unpack
        max_line_size=1 << 20,  # filters and build arguments travel in the query
        max_field_size=1 << 20,  # X-Registry-Config holds all of a user's credentials
        lingering_time=2.0,
        read_bufsize=READ_AHEAD,
    )


def as_upgrade(data: bytes) -> bytes:
    """``data`` with another Upgrade header in front if it begins an attach or exec request.

    Clients may write to the process at once, behind their request. aiohttp's parser takes that for
    the next request, or drops it, unless the request upgrades to a WebSocket: then it stops there.
    """
    line_end = data.find(b"\r\n")
    path = data[5:line_end].partition(b"?")[0].partition(b" ")[0]
    if not (path.endswith(b"/attach") or (b"/exec/" in path and path.endswith(b"/start"))):
        return data
    head = data[: data.find(b"\r\n\r\n")].lower()
    header = b"\r\nConnection: Upgrade\r\nUpgrade: websocket"
    if b"\r\nupgrade:" not in head:
        header += f"\r\n{PLAIN_HEADER}: 1".encode()
    return data[:line_end] + header + data[line_end:]
