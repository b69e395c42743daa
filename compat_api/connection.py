"""longshored: aiohttp's server and connection, with connections that can be given away.

Attach and exec leave HTTP: the client's socket goes to lifecycle and from there to the shim. What
the client sent behind its request may be read already, and must go along. Used by listeners.py
(which serves with ``Server``) and by hijack.py.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

# Tells hijack.py that the client itself did not ask for an upgrade.
PLAIN_HEADER = "Longshore-Plain-Hijack"


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        # Only where a request begins: the bytes of an upload must pass as they are.
        if data.startswith(b"POST ") and (self._waiter is not None or self._request_count == 0):
            data = as_upgrade(data)
        super().data_received(data)

    def take_early(self) -> bytes:
        """What came behind the head and body of an upgrade request, and has not been parsed."""
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
    )


def as_upgrade(data: bytes) -> bytes:
    """``data`` with an Upgrade header if it begins an attach or exec request without one.

    Such clients may write to the process at once. The parser would read that as their next request;
    with the header it stops behind this one.
    """
    line_end = data.find(b"\r\n")
    path = data[5:line_end].partition(b"?")[0].partition(b" ")[0]
    if not (path.endswith(b"/attach") or (b"/exec/" in path and path.endswith(b"/start"))):
        return data
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0 or b"\r\nupgrade:" in data[:head_end].lower():
        return data
    header = f"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{PLAIN_HEADER}: 1".encode()
    return data[:line_end] + header + data[line_end:]
