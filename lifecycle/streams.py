"""Library of lifecycle: descriptors that arrive on streams.sock and are named by later gRPC calls.

gRPC cannot carry a descriptor, and bytes of attach, exec and archives shall not cross it. So a
caller sends the descriptor here with a token first, and puts the token into its call. The socket is
mode 0600 in a directory of root's; what is not claimed in a minute is closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InvalidArgument
from shim.protocol import Connection, ProtocolError, close_all

UNCLAIMED_SECONDS = 60.0


class StreamRegistry:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptors: dict[str, int] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._listener.bind(os.fspath(self._path))
        finally:
            os.umask(mask)
        self._listener.listen(128)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def claim(self, token: str) -> int:
        """The descriptor that was sent under ``token``; the caller owns it from here."""
        try:
            return self._descriptors.pop(token)
        except KeyError:
            raise InvalidArgument(f"no stream was sent for token {token!r}") from None

    @contextmanager
    def claimed(self, token: str) -> Iterator[int]:
        """The descriptor under ``token``, closed in the end; -1 where the caller sent none."""
        if not token:
            yield -1
            return
        descriptor = self.claim(token)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        connection = Connection(accepted)
        asyncio.get_running_loop().add_reader(accepted.fileno(), self._receive, connection)

    def _receive(self, connection: Connection) -> None:
        """One message of one sender; a sender may keep its connection for further ones."""
        try:
            message, received = connection.recv()
        except (OSError, ProtocolError):
            self._drop(connection)
            return
        token = message.get("token")
        if len(received) != 1 or not isinstance(token, str):
            close_all(received)
            self._drop(connection)
            return
        self._keep(token, received[0])
        connection.send({})

    def _drop(self, connection: Connection) -> None:
        asyncio.get_running_loop().remove_reader(connection.fileno())
        connection.close()

    def _keep(self, token: str, descriptor: int) -> None:
        self._descriptors[token] = descriptor
        asyncio.get_running_loop().call_later(UNCLAIMED_SECONDS, self._expire, token, descriptor)

    def _expire(self, token: str, descriptor: int) -> None:
        if self._descriptors.get(token) == descriptor:
            os.close(self._descriptors.pop(token))
