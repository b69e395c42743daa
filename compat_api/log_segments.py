"""Part of longshored: the files of one json-file log as blocks of whole lines.

The shim writes ``<path>``, renames it to ``<path>.1`` when it is full, and may later replace that
by ``<path>.1.gz`` (shim/logfile.py). It does so without regard to readers: they keep a file by its
descriptor and find it again among the others by its inode, or by its first line when it was
compressed meanwhile. All of this reads files, so callers run it in a thread.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

BLOCK_SIZE = 256 * 1024
# Docker cuts lines at 16 KiB, which escapes can make six times as long; attributes come on top.
LONGEST_LINE = 16 << 20


class Segment(Protocol):
    """One file, read forwards in blocks that end with a newline."""

    identity: tuple[int, int]

    def read(self) -> bytes:
        """The next whole lines; empty at what is the end for now."""

    def skip_to_last(self, count: int) -> int:
        """Go to where the last ``count`` lines begin; returns how many there are, at most that."""

    def first_line(self) -> bytes: ...

    def close(self) -> None: ...


class PlainSegment:
    """A file that may still grow. What is behind its last newline stays unread until its rest is
    there: a writer that fails halfway takes its half line back."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.offset = 0
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)

    @classmethod
    def open(cls, path: str) -> Self:
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))

    def read(self) -> bytes:
        size = BLOCK_SIZE
        while True:
            data = os.pread(self.fd, size, self.offset)
            end = data.rfind(b"\n") + 1
            if end:
                self.offset += end
                return data[:end] if end < len(data) else data
            if len(data) < size:
                if not data and os.fstat(self.fd).st_size < self.offset:
                    # Somebody truncated it: what is in it now is all new.
                    self.offset = 0
                    continue
                return b""
            if size >= LONGEST_LINE:
                self.offset += len(data)  # no log line; its end will be taken for a torn one
            else:
                size *= 2

    def skip_to_last(self, count: int) -> int:
        end = os.fstat(self.fd).st_size
        found = -1  # the newline that ends the last line does not begin one
        self.offset = end
        while end > 0:
            start = max(0, end - BLOCK_SIZE)
            block = os.pread(self.fd, end - start, start)
            if found < 0:
                last = block.rfind(b"\n")
                if last < 0:
                    end = start
                    continue
                block, found = block[:last], 0
            newlines = block.count(b"\n")
            if found + newlines >= count:
                self.offset = start + _nth_from_end(block, count - found) + 1
                return count
            found += newlines
            end = start
        self.offset = 0
        return found + 1

    def first_line(self) -> bytes:
        size = BLOCK_SIZE
        while True:
            data = os.pread(self.fd, size, 0)
            line, newline, _ = data.partition(b"\n")
            if newline or len(data) < size or size >= LONGEST_LINE:
                return line
            size *= 2

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class GzipSegment:
    """A file that was compressed; it does not change any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self._rewind()

    @classmethod
    def open(cls, path: str) -> Self:
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))

    def _rewind(self) -> None:
        self._position = 0
        self._input = b""
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._carry = b""

    def read(self) -> bytes:
        while True:
            end = self._carry.rfind(b"\n") + 1
            if end:
                lines, self._carry = self._carry[:end], self._carry[end:]
                return lines
            if len(self._carry) > LONGEST_LINE:
                self._carry = b""
            data = self._decompress()
            if not data:
                return b""
            self._carry += data

    def skip_to_last(self, count: int) -> int:
        total = 0
        while lines := self.read():
            total += lines.count(b"\n")
        self._rewind()
        skip = total - count
        while skip > 0:
            lines = self.read()
            newlines = lines.count(b"\n")
            if newlines > skip:
                rest = lines[_nth_from_start(lines, skip) + 1 :]
                self._carry = rest + self._carry
                break
            skip -= newlines
        return min(total, count)

    def first_line(self) -> bytes:
        twin = GzipSegment(os.dup(self.fd))
        try:
            return twin.read().partition(b"\n")[0]
        finally:
            twin.close()

    def _decompress(self) -> bytes:
        """The next piece; what is behind a defect or a cut is given up."""
        while not self._inflate.eof:
            if not self._input:
                self._input = os.pread(self.fd, 64 * 1024, self._position)
                self._position += len(self._input)
                if not self._input:
                    return self._inflate.flush()
            try:
                data = self._inflate.decompress(self._input, BLOCK_SIZE)
            except zlib.error:
                return b""
            self._input = self._inflate.unconsumed_tail
            if data:
                return data
        return b""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_segments(path: Path) -> list[Segment]:
    """All files of the log, oldest first.

    The shim renames from the highest number down, so that walking upwards meets every file, some
    maybe twice, and at most one number is vacant.
    """
    segments: list[Segment] = []
    with suppress(FileNotFoundError):
        segments.append(PlainSegment.open(str(path)))
    number, vacant = 1, 0
    while vacant < 2:
        segment = _open_numbered(path, number)
        number += 1
        if segment is None:
            vacant += 1
            continue
        vacant = 0
        if segments and is_same(segments[-1], segment):
            segment.close()
        else:
            segments.append(segment)
    segments.reverse()
    return segments


def open_successors(path: Path, held: Segment) -> list[Segment]:
    """The files written after ``held``, which the shim has renamed; oldest first."""
    segments = open_segments(path)
    for index, segment in enumerate(segments):
        if is_same(segment, held):
            close_all(segments[: index + 1])
            return segments[index + 1 :]
    return segments  # it was old enough to be deleted


def skip_to_tail(segments: list[Segment], count: int) -> list[Segment]:
    """The segments that hold the last ``count`` lines, placed there; the others are closed."""
    for index in range(len(segments) - 1, -1, -1):
        count -= segments[index].skip_to_last(count)
        if count <= 0:
            close_all(segments[:index])
            return segments[index:]
    return segments


def was_renamed(path: Path, held: Segment) -> bool:
    """Whether the log goes on in another file; then ``held`` will not grow any more."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False  # between the rename and the new file
    return (status.st_dev, status.st_ino) != held.identity


def is_same(one: Segment, other: Segment) -> bool:
    if one.identity == other.identity:
        return True
    if isinstance(one, PlainSegment) and isinstance(other, PlainSegment):
        return False
    return one.first_line() == other.first_line()


def close_all(segments: list[Segment]) -> None:
    for segment in segments:
        segment.close()


def _open_numbered(path: Path, number: int) -> Segment | None:
    # The plain file is removed after the compressed one is complete, so one of the two is there,
    # unless both move between the two looks.
    with suppress(FileNotFoundError):
        return PlainSegment.open(f"{path}.{number}")
    with suppress(FileNotFoundError):
        return GzipSegment.open(f"{path}.{number}.gz")
    return None


def _nth_from_end(block: bytes, nth: int) -> int:
    position = len(block)
    for _ in range(nth):
        position = block.rfind(b"\n", 0, position)
    return position


def _nth_from_start(block: bytes, nth: int) -> int:
    position = -1
    for _ in range(nth):
        position = block.find(b"\n", position + 1)
    return position
