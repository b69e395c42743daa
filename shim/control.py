"""Library: the shim's control connections: lifecycle's first one, and those to ``shim.sock``.

Each request is answered at once, in order. A connection's end means nothing to a running container,
and a subscriber that does not read its events is dropped: it connects again and asks for the state.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from common.errors import EngineError, InternalError, InvalidArgument
from runtime.errors import RuntimeFailure
from shim.loop import Loop
from shim.protocol import Connection, Message, ProtocolError, ShimError, address, close_all

# Takes (op, message, descriptors, peer); owns the descriptors.
Handler = Callable[[str, Message, list[int], "Peer"], Message]

_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
# What is wrong with the container's program or its arguments, rather than with the machine.
_REQUESTS_FAULT = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOEXEC,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


class Peer:
    """One control connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.subscribed = False


class ControlServer:
    def __init__(self, loop: Loop, handler: Handler, on_peer_gone: Callable[[], None]) -> None:
        self._loop = loop
        self._handler = handler
        self._on_peer_gone = on_peer_gone
        self._listener: socket.socket | None = None
        self.peers: list[Peer] = []

    def listen(self, path: Path) -> None:
        """Bind ``path`` with mode 0600, in place of what an earlier shim may have left there."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            with address(path) as short:
                listener.bind(short)
        finally:
            os.umask(mask)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._loop.add(listener.fileno(), select.EPOLLIN, self._accept)

    def add(self, connection: Connection, *, subscribed: bool = False) -> None:
        peer = Peer(connection)
        peer.subscribed = subscribed
        self.peers.append(peer)
        self._loop.add(connection.fileno(), select.EPOLLIN, lambda _events: self._receive(peer))

    @property
    def has_subscriber(self) -> bool:
        return any(peer.subscribed for peer in self.peers)

    def broadcast(self, event: Message) -> None:
        for peer in [peer for peer in self.peers if peer.subscribed]:
            self._send(peer, event)

    def close(self) -> None:
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for peer in list(self.peers):
            self._drop(peer)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != 0:
            sock.close()
            return
        self.add(Connection(sock))

    def _receive(self, peer: Peer) -> None:
        try:
            message, fds = peer.connection.recv(flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except (ProtocolError, OSError):
            self._drop(peer)
            return
        answer = self._answer(message, fds, peer)
        answer["seq"] = message.get("seq")
        self._send(peer, answer)

    def _answer(self, message: Message, fds: list[int], peer: Peer) -> Message:
        op = message.get("op")
        if not isinstance(op, str):
            close_all(fds)
            return {"error": describe(InvalidArgument("request without op"))}
        try:
            return {"ok": self._handler(op, message, fds, peer)}
        except Exception as e:
            return {"error": describe(e)}

    def _send(self, peer: Peer, message: Message) -> None:
        try:
            peer.connection.send(message, flags=socket.MSG_DONTWAIT)
        except (OSError, ProtocolError):
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        if peer not in self.peers:
            return
        self.peers.remove(peer)
        self._loop.remove(peer.connection.fileno())
        peer.connection.close()
        self._on_peer_gone()


def describe(error: Exception) -> Message:
    """An exception as the ``error`` of an answer."""
    if isinstance(error, ShimError):
        return _error(error.code, str(error), error.step or "", error.errno, error.path or "")
    if isinstance(error, EngineError):
        return _error(error.code, str(error))
    if isinstance(error, RuntimeFailure):
        program = error.step in ("exec", "lookup", "chdir") and error.errno in _REQUESTS_FAULT
        fault = program or error.step == "config"
        code = InvalidArgument.code if fault else InternalError.code
        return _error(code, error.message, error.step, error.errno, error.path)
    if isinstance(error, OSError):
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        return _error(InternalError.code, str(error), "", error.errno or 0, path)
    return _error(InternalError.code, f"{type(error).__name__}: {error}")


def _error(
    code: str, message: str, step: str = "", number: int = 0, path: str = ""
) -> dict[str, object]:
    return {"code": code, "message": message, "step": step, "errno": number, "path": path}
