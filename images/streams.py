"""Worker: a client's descriptor, read or written by a thread that can be interrupted.

The bytes of load, import, save and export come and go through a pipe or a unix stream socket that
compat_api's client holds the other end of: it may stall for as long as it likes. Each blocking call
therefore also waits for an eventfd that cancelling the operation sets.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import TypeVar

from common.errors import InternalError

T = TypeVar("T")


class Interrupted(Exception):
    """The operation was cancelled while a thread worked for it."""


class ClientStream:
    """Made non-blocking; the operation, which owns the descriptor, closes it."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll_in = _poll(fd, select.POLLIN, self._wake)
        self._poll_out = _poll(fd, select.POLLOUT, self._wake)

    def read(self, size: int) -> bytes:
        while True:
            self._wait(self._poll_in)
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                continue
            except ConnectionResetError as e:
                raise InternalError("unexpected EOF") from e

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._poll_out)
            try:
                view = view[os.write(self._fd, view[:65536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as e:
                raise InternalError("the client went away") from e

    def interrupt(self) -> None:
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        os.close(self._wake)
        self._wake = -1

    def _wait(self, poll: select.poll) -> None:
        if any(fd == self._wake for fd, _ in poll.poll()):
            raise Interrupted


def _poll(fd: int, events: int, wake: int) -> select.poll:
    poll = select.poll()
    poll.register(fd, events)
    poll.register(wake, select.POLLIN)
    return poll


async def in_thread(stream: ClientStream, work: Callable[[], T]) -> T:
    """``work`` in a thread; on cancellation it is interrupted, and has ended before we return."""
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stream.interrupt()
        await asyncio.wait((thread,))
        thread.exception()
        raise
    finally:
        stream.close()
