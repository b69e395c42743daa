"""Layers that try to get out of their directory, into other layers, or to fill the machine."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from common.errors import EngineError
from images.model import Image
from tests.archives import docker_archive
from tests.root.images_lab import layer_directory, leftovers, load, readable, service

Add = Callable[[tarfile.TarFile], None]


def entry(
    name: str,
    kind: bytes = tarfile.REGTYPE,
    *,
    content: bytes = b"",
    link: str = "",
    pax: dict[str, str] | None = None,
    mode: int = 0o644,
    device: tuple[int, int] = (0, 0),
) -> Add:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
        info.pax_headers = pax or {}
        info.devmajor, info.devminor = device
        archive.addfile(info, io.BytesIO(content))

    return add


def layer(*entries: Add) -> bytes:
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for add in entries:
            add(archive)
    return buffer.getvalue()


def tree(directory: Path) -> str:
    """A digest of names, modes and contents."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        state = path.lstat()
        digest.update(f"{path}{state.st_mode}{state.st_uid}{state.st_mtime_ns}".encode())
        if stat.S_ISREG(state.st_mode):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nothing may touch."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    before = tree(directory)
    yield directory
    assert tree(directory) == before


async def unpack(tmp_path: Path, data: bytes) -> tuple[Image, Path]:
    async with service(tmp_path / "root") as images:
        (image,), _ = await load(images, docker_archive(["lab:1"], [data]))
        assert not leftovers(tmp_path / "root")
        return image, layer_directory(tmp_path / "root", image.chain_ids[0])


async def refused(tmp_path: Path, data: bytes, reason: str) -> None:
    async with service(tmp_path / "root") as images:
        with pytest.raises(EngineError, match=reason):
            await load(images, docker_archive(["lab:1"], [data]))
        assert images.find() == []
        assert not leftovers(tmp_path / "root")


OUT = "is outside of the layer"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("../x", content=b"x")], OUT),
        ([entry("a/../../x", content=b"x")], OUT),
        ([entry("a", tarfile.SYMTYPE, link="/"), entry("a/../../x")], OUT),
        ([entry("x", tarfile.LNKTYPE, link="../../etc/passwd")], OUT),
        ([entry("x", tarfile.LNKTYPE, link="/etc/passwd")], "not in this layer"),
        ([entry(".wh.", content=b"")], "invalid whiteout"),
        ([entry("a/.wh...", content=b"")], "invalid whiteout"),
        ([entry("a/.wh..", content=b"")], "invalid whiteout"),
        ([entry(".wh.a/b", content=b"")], "below a whiteout"),
        ([entry("c", tarfile.CHRTYPE, device=(0, 0))], "character device 0:0"),
        ([entry("x", tarfile.LNKTYPE, link=".wh.y"), entry(".wh.y")], "not in this layer"),
        ([entry("d", tarfile.SYMTYPE, link="d"), entry("d/x", content=b"x")], "(?i)too many|loop"),
        ([entry("/", content=b"x")], "root is not a directory"),
        ([entry("x" * 300, content=b"x")], "name too long"),
        ([entry("x", pax={"uid": "4294967295"})], "invalid owner"),
        ([entry("x", pax={"comment": "x" * (2 << 20)})], "tar metadata of"),
    ],
)
async def test_refused(tmp_path: Path, canary: Path, entries: list[Add], reason: str) -> None:
    await refused(tmp_path, layer(*entries), f"(?i){reason}")


async def test_links_stay_inside(tmp_path: Path, canary: Path) -> None:
    data = layer(
        entry("out", tarfile.SYMTYPE, link=str(canary)),
        entry("out/file", content=b"changed"),
        entry("out/.wh.file"),
        entry("out/.wh..wh..opq"),
        entry("abs", tarfile.SYMTYPE, link="/"),
        entry("abs/inside", content=b"in"),
        entry("up", tarfile.SYMTYPE, link="../../../../../../.."),
        entry("up/also", content=b"in"),
        entry("passwd", tarfile.SYMTYPE, link="/etc/passwd"),
        entry("hard", tarfile.LNKTYPE, link="passwd"),
        entry("passwd", content=b"replaced", mode=0o4777),
    )
    passwd = os.stat("/etc/passwd")
    _, directory = await unpack(tmp_path, data)
    assert (directory / "inside").read_text() == "in"
    assert (directory / "also").read_text() == "in"
    assert (directory / "passwd").read_text() == "replaced"
    assert (directory / "hard").is_symlink()
    assert os.stat("/etc/passwd") == passwd


async def test_replacing_objects(tmp_path: Path) -> None:
    data = layer(
        entry("d", tarfile.DIRTYPE, mode=0o755),
        entry("d/f", content=b"1"),
        entry("d", tarfile.DIRTYPE, mode=0o700),
        entry("e", tarfile.DIRTYPE, mode=0o755),
        entry("e/f", content=b"1"),
        entry("e", content=b"file now"),
        entry("g", content=b"file"),
        entry("g/h", content=b"directory now"),
        entry(".wh.i"),
        entry("i", tarfile.DIRTYPE, mode=0o755),
        entry("j", tarfile.DIRTYPE, mode=0o755),
        entry("j/k", content=b"kept"),
        entry(".wh.j"),
        entry("p", tarfile.FIFOTYPE),
        entry("n", tarfile.CHRTYPE, device=(1, 3)),
    )
    _, directory = await unpack(tmp_path, data)
    assert stat.S_IMODE((directory / "d").stat().st_mode) == 0o700
    assert (directory / "d/f").read_text() == "1"
    assert (directory / "e").read_text() == "file now"
    assert (directory / "g/h").read_text() == "directory now"
    for name in ("i", "j"):
        assert os.getxattr(directory / name, "trusted.overlay.opaque") == b"y"
    assert (directory / "j/k").read_text() == "kept"
    assert stat.S_ISFIFO((directory / "p").stat().st_mode)
    assert (directory / "n").stat().st_rdev == os.makedev(1, 3)


async def test_overlay_attributes_are_dropped(tmp_path: Path) -> None:
    names = ("trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque")
    pax = {f"SCHILY.xattr.{name}": "/etc" for name in (*names, "trusted.x", "security.selinux")}
    pax["SCHILY.xattr.user.kept"] = "yes"
    _, directory = await unpack(tmp_path, layer(entry("d", tarfile.DIRTYPE, pax=pax)))
    assert [name for name in os.listxattr(directory / "d") if name != "security.selinux"] == [
        "user.kept"
    ]


@pytest.mark.parametrize("cut", [100, 700, 1500])
async def test_truncated_layer(tmp_path: Path, cut: int) -> None:
    await refused(tmp_path, layer(entry("a", content=b"x" * 2000))[:cut], "unexpected EOF")


@pytest.mark.timeout(120)
async def test_bombs(tmp_path: Path) -> None:
    """As a layer, and around the archive, whose files are spooled before anything is known."""
    # Plain zstd of zeros reaches far higher ratios than gzip and takes no time to make.
    info = tarfile.TarInfo("zeros")
    info.size = 6 << 30
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    parts = [compressor.compress(info.tobuf())]
    block = bytes(1 << 22)
    parts += [compressor.compress(block) for _ in range((6 << 30) >> 22)]
    bomb = b"".join((*parts, compressor.flush()))
    async with service(tmp_path / "root") as images:
        for archive in (docker_archive(["lab:1"], [bomb]), bomb):
            with pytest.raises(EngineError, match="bytes decompress to more than"):
                await load(images, archive)
            assert images.find() == []
            assert not leftovers(tmp_path / "root")


async def test_huge_sparse_file(tmp_path: Path) -> None:
    pax = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50), "GNU.sparse.numblocks": "1"}
    await refused(tmp_path, layer(entry("s", content=b"x", pax=pax)), "no space left on device")


async def test_sparse_file(tmp_path: Path) -> None:
    pax = {"GNU.sparse.map": "4096,1", "GNU.sparse.size": "1048576", "GNU.sparse.numblocks": "1"}
    _, directory = await unpack(tmp_path, layer(entry("s", content=b"x", pax=pax)))
    assert (directory / "s").read_bytes() == bytes(4096) + b"x" + bytes(1048576 - 4097)
    assert (directory / "s").stat().st_blocks < 100


async def test_import_runs_nothing_of_the_image(tmp_path: Path, canary: Path) -> None:
    """What Python or libc would load lazily must come from the host, or not at all."""
    data = layer(
        *(
            entry(f"{directory}/{name}", content=b"raise SystemExit('from the image')")
            for directory in ("usr/lib/python3.11", "usr/local/lib/python3.11", "usr/lib")
            for name in ("encodings/idna.py", "linecache.py", "traceback.py", "lzma.py")
        ),
        entry("\udcff\udcfe", content=b"not UTF-8"),
    )
    async with service(tmp_path / "root") as images:
        with readable(data) as fd:
            image = await images.import_(fd, name="made")
        directory = layer_directory(tmp_path / "root", image.chain_ids[0])
        assert b"\xff\xfe" in os.listdir(os.fsencode(directory))
