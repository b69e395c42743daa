"""Job: what a client uploads, read from its own connection: chunks of HTTP/1.1 (RFC 9112, 7.1).

What longshored had read already comes first, from a descriptor of its own.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

from common.tar import CorruptArchive

PIECE = 1 << 18
LINE_LIMIT = 4096


def pieces(fds: list[int]) -> Iterator[memoryview]:
    """All that ``fds`` have, one after the other, which may be non-blocking.

    One buffer over and over: the tar reader is done with a piece when it asks for the next.
    """
    buffer = memoryview(bytearray(PIECE))
    for fd in fds:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            try:
                count = os.readv(fd, [buffer])
            except BlockingIOError:
                poll.poll()
                continue
            if not count:
                break
            yield buffer[:count]


def unchunked(raw: Iterator[memoryview]) -> Iterator[memoryview]:
    """The content of the chunks; ends with the last of them, whatever comes behind it."""
    stream = _Lines(raw)
    while True:
        size = _size(stream.line())
        if size == 0:
            while stream.line():  # trailers
                pass
            return
        yield from stream.parts(size)
        if stream.line():
            raise CorruptArchive("corrupt chunk in the request's body")


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not 0 < len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
        raise CorruptArchive("corrupt chunk in the request's body")
    return int(digits, 16)


class _Lines:
    def __init__(self, raw: Iterator[memoryview]) -> None:
        self._raw = raw
        self._current = memoryview(b"")

    def line(self) -> bytes:
        """Without its end."""
        line = b""
        while not line.endswith(b"\n"):
            self._fill()
            at = bytes(self._current[:LINE_LIMIT]).find(b"\n") + 1 or len(self._current)
            line += bytes(self._current[:at])
            self._current = self._current[at:]
            if len(line) > LINE_LIMIT:
                raise CorruptArchive("corrupt chunk in the request's body")
        return line.rstrip(b"\r\n")

    def parts(self, count: int) -> Iterator[memoryview]:
        while count:
            self._fill()
            part = self._current[:count]
            self._current = self._current[len(part) :]
            count -= len(part)
            yield part

    def _fill(self) -> None:
        if not self._current:
            piece = next(self._raw, None)
            if piece is None:
                raise CorruptArchive("unexpected EOF")
            self._current = piece
