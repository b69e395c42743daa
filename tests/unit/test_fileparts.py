"""A member's content on its way into a file, in whatever pieces it comes."""

from __future__ import annotations

import io
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import fileparts, tar

SIZES = (0, 1, 4096, fileparts.ALIGNMENT - 1, fileparts.ALIGNMENT, 3 * fileparts.ALIGNMENT + 5)


def archive(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("x")
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def in_one_buffer(data: bytes, sizes: Iterator[int]) -> Iterator[memoryview]:
    """As from a connection: each piece is in the memory of the one before."""
    buffer = bytearray(1 << 20)
    at = 0
    while at < len(data):
        size = min(next(sizes), len(data) - at)
        buffer[:size] = data[at : at + size]
        yield memoryview(buffer)[:size]
        at += size


@pytest.mark.parametrize("largest", [100, 5_000, 200_000, 1 << 20])
@pytest.mark.parametrize("size", [*SIZES, 1_000_001])
def test_content_in_pieces(tmp_path: Path, size: int, largest: int) -> None:
    numbers = random.Random(size + largest)
    content = numbers.randbytes(size)
    sizes = iter(lambda: numbers.randint(1, largest), 0)
    reader = tar.Reader(in_one_buffer(archive(content), sizes))
    (entry,) = (entry for entry in reader if write(tmp_path / "x", entry, reader))
    assert entry.size == size
    assert (tmp_path / "x").read_bytes() == content


def write(path: Path, entry: tar.Entry, reader: tar.Reader) -> bool:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        fileparts.write_content(fd, entry, reader)
    finally:
        os.close(fd)
    return True
