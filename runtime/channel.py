"""Library: the socket between the two sides of a container's creation.

A SOCK_SEQPACKET pair, one JSON object a message, with descriptors where a message has them. End of
file means that the other side is gone, or, after "start", that the program is executing.
"""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from runtime.errors import RuntimeFailure

LIMIT = 64 * 1024
MAX_FDS = 4


@dataclass(frozen=True, slots=True)
class Message:
    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    fds: tuple[int, ...] = ()  # owned by the receiver


class Channel:
    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._early: list[Message] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def send(self, kind: str, fds: tuple[int, ...] = (), **fields: object) -> None:
        data = orjson.dumps({"kind": kind, **fields})
        # socket.send_fds drops its flags (3.11), and SIGPIPE has its default action in the child.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], rights, socket.MSG_NOSIGNAL)

    def write(self, kind: str, **fields: object) -> None:
        """``send`` by write(2), the one call that a filter with a listener may not be about."""
        os.write(self.socket.fileno(), orjson.dumps({"kind": kind, **fields}))

    def answer(self, kind: str, **fields: object) -> None:
        """``send`` to a side that may have failed meanwhile: receive() then says why."""
        with suppress(BrokenPipeError):
            self.send(kind, (), **fields)

    def receive(self) -> Message | None:
        """The next message; None at end of file. A failure of the other side is raised."""
        data, fds = self.read()
        if not data:
            return None
        fields = orjson.loads(data)
        kind = fields.pop("kind")
        if kind == "error":
            raise RuntimeFailure(**fields)
        return Message(kind, fields, fds)

    def read(self, most_fds: int = MAX_FDS) -> tuple[bytes, tuple[int, ...]]:
        """A message as it came, b"" at end of file; the kernel drops further descriptors."""
        space = socket.CMSG_SPACE(most_fds * 4) if most_fds else 0
        try:
            data, rights, _, _ = self.socket.recvmsg(LIMIT, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It ended with a message of ours unread. The kernel says so once, and first; its own
            # last message may still be there.
            data, rights, _, _ = self.socket.recvmsg(LIMIT, space, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for _level, _kind, content in rights:
            fds.frombytes(content)
        return data, tuple(fds)

    def expect(self, kind: str) -> Message:
        """Wait for ``kind``; what comes before it is kept for a later call."""
        for number, message in enumerate(self._early):
            if message.kind == kind:
                return self._early.pop(number)
        while (message_or_end := self.receive()) is not None:
            if message_or_end.kind == kind:
                return message_or_end
            self._early.append(message_or_end)
        raise RuntimeFailure("sync", f"the other side ended before it sent {kind!r}")

    def fail(self, failure: RuntimeFailure) -> None:
        self.send(
            "error",
            step=failure.step,
            message=failure.message[: LIMIT // 8],
            errno=failure.errno,
            path=failure.path[:4096],
        )

    def close(self) -> None:
        self.socket.close()
