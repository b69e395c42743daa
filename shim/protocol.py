"""Library: the messages between a shim or the zygote and the processes that use them.

Each packet of a SOCK_SEQPACKET socket is one JSON object, at most ``MAX_MESSAGE`` bytes, with at
most ``MAX_DESCRIPTORS`` descriptors beside it. The shim and the zygote import this, and lifecycle
does for its blocking calls; shim/client.py is the asyncio side. It must not import asyncio: every
shim has what is imported here in memory. The operations are in docs/architecture.md, "Clients and
shim".
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from common import errors

_SUN_PATH = 108
MAX_MESSAGE = 128 * 1024
MAX_DESCRIPTORS = 240  # the kernel's own limit, SCM_MAX_FD, is 253
# Linux' MSG_CMSG_CLOEXEC; the socket module does not have it on every Python that we run on.
MSG_CMSG_CLOEXEC = 0x40000000
_CONTROL_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)

# What json.loads gives: its shape is checked where each operation reads its fields.
Message = dict[str, Any]


class ProtocolError(Exception):
    """The peer sent something that is not a message; the connection is of no further use."""


class ConnectionClosed(ProtocolError):
    """The peer is gone."""


class Connection:
    """One end of a SEQPACKET socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    @classmethod
    def connect(cls, path: Path) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with address(path) as short:
                sock.connect(short)
        except OSError:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, obj: Message, fds: Sequence[int] = (), *, flags: int = 0) -> None:
        """Send one message; the caller still owns ``fds``."""
        data = encode(obj)
        ancillary = []
        if fds:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds)))
        self.socket.sendmsg([data], ancillary, flags | socket.MSG_NOSIGNAL)

    def recv(self, *, flags: int = 0) -> tuple[Message, list[int]]:
        """The next message and its descriptors, which the caller owns."""
        data, ancillary, message_flags, _ = self.socket.recvmsg(
            MAX_MESSAGE, _CONTROL_SPACE, flags | MSG_CMSG_CLOEXEC
        )
        fds = descriptors(ancillary)
        try:
            return decode(data, message_flags), fds
        except ProtocolError:
            close_all(fds)
            raise

    def readable(self) -> bool:
        """Whether recv() would not wait."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return bool(poller.poll(0))

    def call(self, op: str, fields: Message | None = None, fds: Sequence[int] = ()) -> Message:
        """Send a request and wait for its answer; events that come first are dropped."""
        self.send({"op": op, "seq": 0, **(fields or {})}, fds)
        while True:
            answer, extra = self.recv()
            close_all(extra)
            if answer.get("seq") == 0:
                return unwrap(answer)

    def close(self) -> None:
        self.socket.close()


@contextmanager
def address(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into a socket address; an exec root may be deep."""
    if len(os.fsencode(path)) < _SUN_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def encode(obj: Message) -> bytes:
    data = orjson.dumps(obj)
    if len(data) > MAX_MESSAGE:
        raise ProtocolError(f"message of {len(data)} bytes exceeds {MAX_MESSAGE}")
    return data


def decode(data: bytes, message_flags: int = 0) -> Message:
    if not data:
        raise ConnectionClosed("the peer closed the connection")
    if message_flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError(f"message or its descriptors exceed {MAX_MESSAGE}/{MAX_DESCRIPTORS}")
    try:
        obj = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise ProtocolError(f"message is not JSON: {e}") from e
    if not isinstance(obj, dict):
        raise ProtocolError("message is not an object")
    return obj


def descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in recvmsg's ancillary data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


class ShimError(errors.EngineError):
    """An operation's failure as the shim reported it; ``code`` is one of common.errors'."""

    def __init__(self, error: Message) -> None:
        super().__init__(str(error.get("message", "")))
        self.code = str(error.get("code", errors.InternalError.code))
        self.step: str | None = error.get("step")
        self.errno: int = error.get("errno") or 0
        self.path: str | None = error.get("path")


def unwrap(answer: Message) -> Message:
    """The ``ok`` of an answer; raises ShimError where it has an ``error``."""
    error = answer.get("error")
    if error is not None:
        raise ShimError(error)
    ok = answer.get("ok", {})
    if not isinstance(ok, dict):
        raise ProtocolError("answer without an object")
    return ok
