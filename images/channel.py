"""Library and worker: JSON messages with descriptors over a SOCK_SEQPACKET socketpair, for asyncio.

Each side has one. Messages arrive whole and in order, sending never blocks the loop: what the
kernel does not take at once waits here. What the messages mean is written in ``images/worker.py``.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

MESSAGE_LIMIT = 1 << 20
DESCRIPTOR_LIMIT = 8

Message = dict[str, Any]  # the edge: what comes out is parsed at once by its receiver


class Channel:
    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_close: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        # One message is one buffer in the kernel, and the default would refuse large ones. The
        # FORCE variant goes past net.core.wmem_max, which root may.
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * MESSAGE_LIMIT)
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        self._closed = False

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """The descriptors are duplicated; the caller keeps its own."""
        if self._closed:
            return
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) > MESSAGE_LIMIT:
            raise ValueError(f"message of {len(data)} bytes")
        if not self._unsent and self._send_now(data, fds):
            return
        if not self._unsent:
            self._loop.add_writer(self._sock, self._writable)
        self._unsent.append((data, tuple(os.dup(fd) for fd in fds)))

    def close(self) -> None:
        """Close and tell the owner, once."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        while self._unsent:
            for fd in self._unsent.popleft()[1]:
                os.close(fd)
        self._on_close()

    def _send_now(self, data: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader sees the end, and tells the owner
        return True

    def _writable(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            if not self._send_now(data, fds):
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MESSAGE_LIMIT, DESCRIPTOR_LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self.close()
            return
        self._on_message(json.loads(data), fds)


_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; the socket module lacks it
