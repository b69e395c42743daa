"""Part of longshored: one inotify descriptor, by which the event loop learns that logs have grown.

It is there while anybody follows a log. Directories are watched, not files, because a log that is
rotated is another file of the same name.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# linux/inotify.h
IN_MODIFY = 0x002
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_ONLYDIR = 0x1000000
_MASK = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF

_HEADER = struct.Struct("iIII")
_READ_SIZE = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
_libc.inotify_rm_watch.argtypes = [ctypes.c_int, ctypes.c_int]


@contextmanager
def watch(directory: Path) -> Iterator[asyncio.Event]:
    """An event that is set whenever a file in ``directory`` is written, made or renamed.

    Raises OSError where the user's inotify instances or watches are used up.
    """
    global _shared
    loop = asyncio.get_running_loop()
    if _shared is None or _shared.loop is not loop:
        _shared = Inotify(loop)
    inotify = _shared
    try:
        with inotify.watch(directory) as event:
            yield event
    finally:
        if not inotify.in_use:
            inotify.close()
            if _shared is inotify:
                _shared = None


class Inotify:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._listeners: dict[int, list[asyncio.Event]] = {}  # by watch descriptor
        # IN_NONBLOCK and IN_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
        self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        loop.add_reader(self._fd, self._dispatch)

    @property
    def in_use(self) -> bool:
        return bool(self._listeners)

    @contextmanager
    def watch(self, directory: Path) -> Iterator[asyncio.Event]:
        encoded = os.fsencode(directory)
        number = _check(
            _libc.inotify_add_watch(self._fd, encoded, _MASK | IN_ONLYDIR), "inotify_add_watch"
        )
        event = asyncio.Event()
        # The kernel gives the same number for the same directory.
        self._listeners.setdefault(number, []).append(event)
        try:
            yield event
        finally:
            listeners = self._listeners[number]
            listeners.remove(event)
            if not listeners:
                del self._listeners[number]
                # The kernel has dropped the watch already if the directory is gone.
                _libc.inotify_rm_watch(self._fd, number)

    def close(self) -> None:
        self.loop.remove_reader(self._fd)
        os.close(self._fd)

    def _dispatch(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._fd, _READ_SIZE)
            position = 0
            while position < len(data):
                number, mask, _, length = _HEADER.unpack_from(data, position)
                position += _HEADER.size + length
                if mask & IN_Q_OVERFLOW:
                    self._wake_all()
                else:
                    for event in self._listeners.get(number, ()):
                        event.set()

    def _wake_all(self) -> None:
        for listeners in self._listeners.values():
            for event in listeners:
                event.set()


def _check(result: int, call: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")
    return result


_shared: Inotify | None = None
