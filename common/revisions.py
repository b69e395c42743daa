"""Library: whether what lifecycle has told of a container still holds, to be seen without a call.

Lifecycle has a file of shared memory with two numbers for each container: one that is another after
every change of its record, and one that is 0 while it has no exec, else another after every change
of those. What it tells of a container goes with both; as long as they stand, that holds.
``Table`` and ``Row`` are lifecycle's, ``View`` is longshored's.

A file belongs to one process. The next one makes another, with another ``instance``.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

WORD = 8  # bytes; one aligned word is read and written at once
ROW_WORDS = 2
MAX_ROWS = 1 << 14  # containers beyond these are asked for each time
SIZE = MAX_ROWS * ROW_WORDS * WORD  # pages that nobody writes take no memory
INSTANCE = 0  # in the place of the first row


class Row:
    """One container's numbers. Numbers are never used again, so rows may be."""

    __slots__ = ("_numbers", "_words", "index")

    def __init__(self, words: memoryview, index: int, numbers: Iterator[int]) -> None:
        self._words, self._numbers = words, numbers
        self.index = index  # 0: nobody looks at it
        self.record_changed()
        self.execs_changed(exist=False)

    @classmethod
    def unseen(cls) -> Row:
        return cls(_private(), 0, itertools.count(1))

    def leave(self) -> int:
        """Be unseen from now on: the place, which is returned, will be another container's."""
        self.record_changed()
        left, self.index, self._words = self.index, 0, _private()
        return left

    def record_changed(self) -> None:
        self._words[self.index * ROW_WORDS] = next(self._numbers)

    def execs_changed(self, *, exist: bool) -> None:
        self._words[self.index * ROW_WORDS + 1] = next(self._numbers) if exist else 0

    @property
    def numbers(self) -> tuple[int, int]:
        return _read(self._words, self.index)


class Table:
    def __init__(self, path: Path) -> None:
        """Put a new file in the place of an earlier process's."""
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, SIZE)
            self._words = memoryview(mmap.mmap(fd, SIZE)).cast("Q")
        finally:
            os.close(fd)
        self.instance = int.from_bytes(os.urandom(WORD), "little")
        self._words[INSTANCE] = self.instance
        self._numbers = itertools.count(1)
        self._next = 1
        self._free: list[int] = []
        new.rename(path)

    def take(self) -> Row:
        if self._free:
            return Row(self._words, self._free.pop(), self._numbers)
        if self._next == MAX_ROWS:
            return Row.unseen()
        self._next += 1
        return Row(self._words, self._next - 1, self._numbers)

    def give_back(self, row: Row) -> None:
        """Its container is gone; nothing that was told of it holds any more."""
        if row.index:
            self._free.append(row.leave())


class View:
    def __init__(self, path: Path) -> None:
        """Raises OSError where there is no such file."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._words = memoryview(mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)).cast("Q")
        finally:
            os.close(fd)
        self.instance: int = self._words[INSTANCE]

    def numbers(self, index: int) -> tuple[int, int]:
        return _read(self._words, index)


def _private() -> memoryview:
    return memoryview(bytearray(ROW_WORDS * WORD)).cast("Q")


def _read(words: memoryview, index: int) -> tuple[int, int]:
    first = index * ROW_WORDS
    return words[first], words[first + 1]
