"""Library: bounded decompression of layers and archives; used in the worker and the unpackers.

The format is told from the first bytes, never from a name or a media type. Output comes in pieces
of at most ``PIECE`` bytes, whatever the ratio, so memory stays flat; a stream that grows beyond
reason is refused (decompression bombs, CVE-2017-14992). Nothing is ever executed (CVE-2026-41567).
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

import zstandard
from isal import igzip_lib

PIECE = 1 << 20
READ = 1 << 18
# deflate reaches 1032:1 on zeros, real layers 2:1 to 20:1.
RATIO_LIMIT = 250
RATIO_FREE = 1 << 30  # below this much output no ratio is suspicious
ZSTD_WINDOW_LIMIT = 1 << 27  # what `zstd --long` writes at most by default
LZMA_MEMORY_LIMIT = 256 << 20

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
BZIP2 = b"BZh"
XZ = b"\xfd7zXZ\x00"

_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)  # the stub calls it a value


class CorruptStream(Exception):
    """The compressed data is damaged, cut off, or a bomb."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class Source:
    """Reads through ``read``, counting the bytes; the start can be looked at beforehand."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._from = read
        self._peeked = b""
        self.consumed = 0

    def peek(self, count: int) -> bytes:
        while len(self._peeked) < count:
            data = self._from(READ)
            if not data:
                break
            self._peeked += data
        return self._peeked[:count]

    def read(self, _size: int = READ) -> bytes:
        if self._peeked:
            data, self._peeked = self._peeked, b""
        else:
            data = self._from(READ)
        self.consumed += len(data)
        return data


def decompressed(source: Source) -> Iterator[bytes]:
    """The plain bytes of ``source``; it is read to its very end."""
    start = source.peek(6)
    if start.startswith(GZIP):
        pieces = _frames(source, lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    elif start.startswith(ZSTD) or _is_skippable(start):
        pieces = _zstd(source)
    elif start.startswith(BZIP2):
        pieces = _frames(source, bz2.BZ2Decompressor)
    elif start.startswith(XZ):
        pieces = _frames(source, lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY_LIMIT))
    else:
        return _plain(source)
    return _limited(source, pieces)


def _is_skippable(start: bytes) -> bool:
    return len(start) >= 4 and 0x50 <= start[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18"


def _plain(source: Source) -> Iterator[bytes]:
    while data := source.read():
        yield data


def _limited(source: Source, pieces: Iterator[bytes]) -> Iterator[bytes]:
    produced = 0
    try:
        for piece in pieces:
            produced += len(piece)
            if produced > RATIO_FREE and produced > source.consumed * RATIO_LIMIT:
                raise CorruptStream(
                    f"refused: {source.consumed} bytes decompress to more than {produced}"
                )
            yield piece
    except (_ISAL_ERROR, zstandard.ZstdError, lzma.LZMAError, OSError, ValueError) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise  # reading failed, the data may be fine
        raise CorruptStream(f"corrupt compressed data: {e}") from e


def _frames(source: Source, new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Members one after another, as `cat a.gz b.gz` makes them; zeros may pad the end."""
    decompressor = new()
    data = source.read()
    while True:
        piece = decompressor.decompress(data, PIECE)
        if piece:
            yield piece
        if decompressor.eof:
            data = decompressor.unused_data.lstrip(b"\0")
            while not data:
                data = source.read()
                if not data:
                    return
                data = data.lstrip(b"\0")
            decompressor = new()
        elif decompressor.needs_input:
            data = source.read()
            if not data:
                raise CorruptStream("unexpected EOF")
        else:
            data = b""


def _zstd(source: Source) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT)
    with decompressor.stream_reader(
        cast(IO[bytes], source), read_size=READ, read_across_frames=True
    ) as reader:
        while piece := reader.read(PIECE):
            yield piece
