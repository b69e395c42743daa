"""Job: what a client uploads, read from its own connection: chunks of HTTP/1.1 (RFC 9112, 7.1).

What longshored had read already comes first, from a descriptor of its own.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

from common.tar import CorruptArchive

PIECE = 1 << 18
LINE_LIMIT = 4096
WINDOW = 64  # bytes to look for a line's end in at once


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
    """The content of the chunks; ends with the last of them, whatever comes behind it.

    A client's chunks are small. Those of one piece are moved together in its memory, which has to
    be writable, so that a file is written by few calls.
    """
    lines = _Lines()
    left = 0
    for piece in raw:
        at = gathered = 0
        while at < len(piece):
            if left:
                count = min(left, len(piece) - at)
                piece[gathered : gathered + count] = piece[at : at + count]
                gathered, at, left = gathered + count, at + count, left - count
                continue
            at, size = lines.read(piece, at)
            if lines.ended:
                yield piece[:gathered]
                return
            left = size
        if gathered:
            yield piece[:gathered]
    raise CorruptArchive("unexpected EOF")


class _Lines:
    """What stands between the content: sizes, the ends of chunks, and trailers."""

    def __init__(self) -> None:
        self.ended = False
        self._begun = b""  # of a line that goes on in the next piece
        self._last = 0  # a chunk's size
        self._again = b""  # between its content and that of another of this size
        self._read: Callable[[bytes], int] = self._size

    def read(self, piece: memoryview, at: int) -> tuple[int, int]:
        """One line, or what there is of it: where it ends, and the size of the chunk behind it."""
        if self._read == self._end and not self._begun:
            # Clients send chunks of one size: taken apart, their lines cost 10 ms of 100 MB.
            behind = at + len(self._again)
            if piece[at:behind] == self._again:
                return behind, self._last
        window = bytes(piece[at : at + WINDOW])
        length = window.find(b"\n") + 1
        self._begun += window[:length] if length else window
        if not length:
            if len(self._begun) > LINE_LIMIT:
                raise CorruptArchive("corrupt chunk in the request's body")
            return at + len(window), 0
        line, self._begun = self._begun.rstrip(b"\r\n"), b""
        return at + length, self._read(line)

    def _size(self, line: bytes) -> int:
        digits = line.partition(b";")[0].strip()
        if not 0 < len(digits) <= 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise CorruptArchive("corrupt chunk in the request's body")
        size = int(digits, 16)
        self._read = self._end if size else self._trailer
        self._last, self._again = size, b"\r\n%b\r\n" % line
        return size

    def _end(self, line: bytes) -> int:
        if line:
            raise CorruptArchive("corrupt chunk in the request's body")
        self._read = self._size
        return 0

    def _trailer(self, line: bytes) -> int:
        self.ended = not line
        return 0
