"""The tar reader and writer against the standard library's and GNU's."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import tar


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(data: bytes, size: int = 7000) -> list[tuple[tar.Entry, bytes]]:
    reader = tar.Reader(pieces(data, size))
    return [(entry, b"".join(reader.data())) for entry in reader]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 7000])
def test_reads_what_tarfile_writes(kind: int, size: int) -> None:
    buffer = io.BytesIO()
    long = "directory/" + "n" * 90 if kind == tarfile.USTAR_FORMAT else "long/" + "n" * 200
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, content in (("a", b"x" * 1000), (long, b""), ("b/c", b"y" * 512)):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = len(content), 0o4755, 1, 2, 3
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 150 if "long" in long else "t"
        archive.addfile(link)
    entries = read(buffer.getvalue(), size)
    assert [(entry.name.decode(), data) for entry, data in entries] == [
        ("a", b"x" * 1000),
        (long, b""),
        ("b/c", b"y" * 512),
        ("link", b""),
    ]
    first = entries[0][0]
    assert (first.mode, first.uid, first.gid, first.mtime) == (0o4755, 1, 2, 3_000_000_000)
    assert entries[3][0].linkname.decode() == link.linkname


@pytest.mark.parametrize("kind", ["gnu", "pax --sparse-version=0.1", "pax --sparse-version=1.0"])
def test_reads_gnu_sparse_files(tmp_path: Path, kind: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        for at in range(1, 12):
            file.seek(at << 20)
            file.write(b"data %d" % at)
        file.truncate(20 << 20)
    form, *options = kind.split()
    data = subprocess.run(
        ["tar", "-cS", f"--format={form}", *options, "-C", tmp_path, "holes"],
        capture_output=True,
        check=True,
    ).stdout
    ((entry, content),) = read(data)
    assert entry.name == b"holes"
    assert entry.real_size == 20 << 20
    assert entry.sparse is not None
    rebuilt = bytearray(entry.real_size)
    at = 0
    for offset, length in entry.sparse:
        rebuilt[offset : offset + length] = content[at : at + length]
        at += length
    assert rebuilt == (tmp_path / "holes").read_bytes()


def test_writes_what_tarfile_reads() -> None:
    entry = tar.Entry(
        name=b"d/" + b"\xff" * 150,
        type=tar.REGULAR,
        mode=0o6711,
        uid=1 << 22,
        gid=5,
        size=3,
        mtime=1_600_000_000_123_456_789,
        xattrs={b"security.capability": b"\x01\x00\n="},
    )
    data = tar.header(entry) + b"abc" + bytes(509) + tar.end()
    ((again, content),) = read(data)
    entry.real_size = 3
    assert again == entry
    assert content == b"abc"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
        assert member.uid == 1 << 22
        assert member.name.encode("utf-8", "surrogateescape") == entry.name


def mutate(at: int, new: bytes) -> bytes:
    block = bytearray(tar.header(tar.Entry(b"a", tar.REGULAR, 0o644, 0, 0, 0, 0)))
    block[at : at + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 100, "unexpected EOF"),
        (b"x" * 512, "invalid tar header"),
        (mutate(124, b"00000001000\0"), "unexpected EOF"),
        (mutate(124, b"\xff" * 12), "negative"),
        (mutate(124, b"zzz\0"), "invalid tar header"),
        (mutate(156, b"Q"), "unhandled tar header type"),
        (mutate(156, b"L"), "unexpected EOF"),
    ],
)
def test_corrupt_archives(data: bytes, message: str) -> None:
    with pytest.raises(tar.CorruptArchive, match=message):
        read(data)


@pytest.mark.parametrize("record", [b"5 a=b\n", b"x", b"99 a=b\n", b"0 a=b\n", b"6 ab\n\n"])
def test_corrupt_pax_records(record: bytes) -> None:
    head = tar.Entry(b"x", b"x", 0o644, 0, 0, len(record), 0)
    data = tar.header(head) + record + bytes(-len(record) % 512)
    with pytest.raises(tar.CorruptArchive):
        read(data)
