"""Library: the tar format, read as a stream and written; used by the images worker, its unpackers,
and the zygote's jobs.

Reads ustar, GNU (long names, base-256 numbers, sparse files) and PAX archives from any iterator of
bytes, in one pass and with bounded memory. Only the format is known here: what a name may be and
where it may point is judged by those who create files. The standard library's tarfile is not used:
it decodes names, looks owners up, is slow, and its extraction filters were bypassed time and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCK = 512
METADATA_LIMIT = 1 << 20  # a long name or one PAX header
SPARSE_LIMIT = 1 << 17  # segments of one file

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_REGULAR_TYPES = frozenset((b"0", b"\0", b"7", b"S"))
_OTHER_TYPES = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_XATTR = b"SCHILY.xattr."
_SPARSE_PARTS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


class CorruptArchive(Exception):
    """Not a tar archive, cut off, or beyond the limits."""


@dataclass(slots=True)
class Entry:
    """A member. Names are bytes, as the kernel's; ``size`` counts the bytes in the archive."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int  # ns since 1970
    linkname: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None  # (offset, length) of the data, in order
    real_size: int = 0  # with the holes


class Stream:
    """Exact reads from an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes] | Iterator[memoryview]) -> None:
        self._pieces: Iterator[bytes | memoryview] = pieces
        self._current = memoryview(b"")

    def take(self, count: int) -> bytes:
        if len(self._current) >= count:
            data = bytes(self._current[:count])
            self._current = self._current[count:]
            return data
        # Copied one by one: a piece may be in the memory of the one before.
        return b"".join(map(bytes, self.parts(count)))

    def parts(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` bytes, uncopied."""
        while count:
            if not self._current:
                piece = next(self._pieces, None)
                if piece is None:
                    raise CorruptArchive("unexpected EOF")
                self._current = memoryview(piece)
                continue
            part = self._current[:count]
            self._current = self._current[len(part) :]
            count -= len(part)
            yield part

    def skip(self, count: int) -> None:
        for _ in self.parts(count):
            pass

    def at_end(self) -> bool:
        while not self._current:
            piece = next(self._pieces, None)
            if piece is None:
                return True
            self._current = memoryview(piece)
        return False

    def drain(self) -> None:
        """Read to the end: padding after the archive counts for its digest."""
        self._current = memoryview(b"")
        for _ in self._pieces:
            pass


class Reader:
    """Iterates over the members; the data of each is read with ``data`` or passed over."""

    def __init__(self, pieces: Iterator[bytes] | Iterator[memoryview]) -> None:
        self._stream = Stream(pieces)
        self._unread = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry
        self._stream.drain()

    def data(self, count: int | None = None) -> Iterator[memoryview]:
        """The current member's next ``count`` bytes, or all that are left."""
        count = self._unread if count is None else count
        if count > self._unread:
            raise CorruptArchive("sparse map is larger than the data")
        self._unread -= count
        return self._stream.parts(count)

    def _next(self) -> Entry | None:
        self._stream.skip(self._unread + self._padding)
        self._unread = self._padding = 0
        overrides: dict[bytes, bytes] = {}
        pending = False
        while True:
            header = self._header(pending=pending)
            if header is None:
                return None
            kind = header[156:157]
            size = _number(header[124:136])
            if kind in (b"x", b"X"):
                overrides.update(_pax_records(self._metadata(size)))
            elif kind == b"L":
                overrides[b"path"] = self._metadata(size).split(b"\0", 1)[0]
            elif kind == b"K":
                overrides[b"linkpath"] = self._metadata(size).split(b"\0", 1)[0]
            elif kind in (b"g", b"V"):  # global defaults and volume labels, ignored as by Go
                self._metadata(size)
            elif kind in _REGULAR_TYPES or kind in _OTHER_TYPES:
                return self._member(header, kind, size, overrides)
            else:
                raise CorruptArchive(f"unhandled tar header type {kind[0]}")
            pending = pending or kind in (b"x", b"X", b"L", b"K")

    def _header(self, *, pending: bool) -> bytes | None:
        if self._stream.at_end():
            if pending:
                raise CorruptArchive("unexpected EOF")
            return None  # many tars lack the two zero blocks, and Go takes them
        header = self._stream.take(BLOCK)
        if header.count(0) == BLOCK:
            return None
        _verify_checksum(header)
        return header

    def _metadata(self, size: int) -> bytes:
        if size > METADATA_LIMIT:
            raise CorruptArchive(
                f"tar metadata of {size} bytes, at most {METADATA_LIMIT} are allowed"
            )
        data = self._stream.take(size)
        self._stream.skip(-size % BLOCK)
        return data

    def _member(self, header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes]) -> Entry:
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        entry = Entry(
            name=name,
            type=REGULAR if kind in _REGULAR_TYPES else kind,
            mode=_number(header[100:108]) & 0o7777,
            uid=_number(header[108:116]),
            gid=_number(header[116:124]),
            size=size,
            mtime=_number(header[136:148], signed=True) * 1_000_000_000,
            linkname=header[157:257].split(b"\0", 1)[0],
        )
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = _number(header[329:337]), _number(header[337:345])
        if kind == b"S":
            self._gnu_sparse(entry, header)
        if pax:
            _apply_pax(entry, pax)
        if kind == b"\0" and entry.name.endswith(b"/"):
            entry.type = DIRECTORY  # V7 tar knew no directories
        if entry.type != REGULAR:
            entry.size = 0  # as Go reads them: what has no content has no data
        self._unread, self._padding = entry.size, -entry.size % BLOCK
        if entry.sparse is None:
            entry.real_size = entry.size
        if b"GNU.sparse.major" in pax and pax[b"GNU.sparse.major"] == b"1":
            self._pax_sparse_map(entry)
        return entry

    def _gnu_sparse(self, entry: Entry, header: bytes) -> None:
        entry.sparse = []
        entry.real_size = _number(header[483:495])
        fields, more = header[386:482], header[482]
        while True:
            _add_segments(entry, fields)
            if not more:
                return
            block = self._stream.take(BLOCK)
            fields, more = block[:504], block[504]

    def _pax_sparse_map(self, entry: Entry) -> None:
        """PAX 1.0: decimal lines before the data, padded to a block."""
        text, used = b"", 0
        numbers: list[int] = []
        wanted = 1
        while len(numbers) < wanted:
            line, newline, rest = text.partition(b"\n")
            if not newline:
                if len(text) > 32:
                    raise CorruptArchive("corrupt sparse map")
                text += b"".join(map(bytes, self.data(BLOCK)))
                used += BLOCK
                continue
            numbers.append(_decimal(line))
            text = rest
            if len(numbers) == 1:
                if numbers[0] > SPARSE_LIMIT:
                    raise CorruptArchive("too many segments in a sparse file")
                wanted = 1 + 2 * numbers[0]
        entry.size -= used
        entry.sparse = list(zip(numbers[1::2], numbers[2::2], strict=True))


def _add_segments(entry: Entry, fields: bytes) -> None:
    segments = entry.sparse
    assert segments is not None
    for at in range(0, len(fields) - 23, 24):
        if not fields[at]:
            return
        segments.append((_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])))
        if len(segments) > SPARSE_LIMIT:
            raise CorruptArchive("too many segments in a sparse file")


def _number(raw: bytes, *, signed: bool = False) -> int:
    if raw[0] & 0x80:  # GNU: base 256, two's complement in the remaining 7 bits and bytes
        value = int.from_bytes(bytes((raw[0] & 0x7F,)) + raw[1:], "big")
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
    else:
        text = raw.strip(b" \0").split(b"\0", 1)[0]
        try:
            value = int(text, 8) if text else 0
        except ValueError as e:
            raise CorruptArchive("invalid tar header") from e
    if value < 0 and not signed:
        raise CorruptArchive("invalid tar header: negative number")
    return value


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise CorruptArchive("invalid number in a PAX header")
    return int(text)


def _verify_checksum(header: bytes) -> None:
    total = sum(header) - sum(header[148:156]) + 8 * 0x20
    wanted = _number(header[148:156])
    if total != wanted:
        signed = total - 256 * sum(1 for byte in header[:148] + header[156:] if byte > 127)
        if signed != wanted:  # old tars added signed chars
            raise CorruptArchive("invalid tar header")


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    segments: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not data[at:space].isdigit():
            raise CorruptArchive("corrupt PAX header")
        end = at + int(data[at:space])
        record = data[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or end <= space or not equals or not value.endswith(b"\n"):
            raise CorruptArchive("corrupt PAX header")
        if key in _SPARSE_PARTS:  # sparse format 0.0 repeats these; 0.1 has them as one list
            segments.append(value[:-1])
        else:
            records[key] = value[:-1]
        at = end
    if segments:
        records[b"GNU.sparse.map"] = b",".join(segments)
    return records


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    entry.name = pax.get(b"path", entry.name)
    entry.linkname = pax.get(b"linkpath", entry.linkname)
    if b"\0" in entry.name or b"\0" in entry.linkname:
        raise CorruptArchive("NUL in a name")
    for key, value in pax.items():
        if key == b"size":
            entry.size = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key == b"mtime":
            entry.mtime = _pax_time(value)
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
    if b"GNU.sparse.name" in pax:
        entry.name = pax[b"GNU.sparse.name"]
    real = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
    if real is not None:
        entry.real_size = _decimal(real)
        numbers = [_decimal(item) for item in pax.get(b"GNU.sparse.map", b"").split(b",") if item]
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=False))


def _pax_time(value: bytes) -> int:
    negative = value.startswith(b"-")
    seconds, _, fraction = value.lstrip(b"-").partition(b".")
    fraction = fraction[:9].ljust(9, b"0")
    ns = _decimal(seconds) * 1_000_000_000 + _decimal(fraction)
    return -ns if negative else ns


# ---- writing


def header(entry: Entry) -> bytes:
    """The blocks that come before a member's data; PAX only where ustar cannot say it."""
    pax = [(b"SCHILY.xattr." + key, value) for key, value in sorted(entry.xattrs.items())]
    if len(entry.name) > 100:
        pax.append((b"path", entry.name))
    if len(entry.linkname) > 100:
        pax.append((b"linkpath", entry.linkname))
    for key, number in ((b"size", entry.size), (b"uid", entry.uid), (b"gid", entry.gid)):
        if number >= (1 << 33 if key == b"size" else 1 << 21):
            pax.append((key, b"%d" % number))
    if entry.mtime % 1_000_000_000 or not 0 <= entry.mtime // 1_000_000_000 < 1 << 33:
        sign, ns = (b"-", -entry.mtime) if entry.mtime < 0 else (b"", entry.mtime)
        seconds, rest = divmod(ns, 1_000_000_000)
        pax.append((b"mtime", b"%s%d.%09d" % (sign, seconds, rest)))
    if not pax:
        return _ustar(entry)
    body = b"".join(_pax_record(key, value) for key, value in pax)
    extended = Entry(
        b"PaxHeaders.0/" + entry.name.rsplit(b"/", 1)[-1][:80], b"x", 0o644, 0, 0, len(body), 0
    )
    return _ustar(extended) + body + bytes(-len(body) % BLOCK) + _ustar(entry)


def end() -> bytes:
    return bytes(2 * BLOCK)


def _pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    if len(str(total)) != len(str(length)):
        total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def _octal(value: int, width: int) -> bytes:
    limit = 8 ** (width - 1)
    return b"%0*o\0" % (width - 1, value if 0 <= value < limit else 0)


def _ustar(entry: Entry) -> bytes:
    seconds = entry.mtime // 1_000_000_000
    fields = (
        entry.name[:100].ljust(100, b"\0"),
        _octal(entry.mode, 8),
        _octal(entry.uid, 8),
        _octal(entry.gid, 8),
        _octal(entry.size, 12),
        _octal(seconds, 12),
        b" " * 8,
        entry.type,
        entry.linkname[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        _octal(entry.major, 8),
        _octal(entry.minor, 8),
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
