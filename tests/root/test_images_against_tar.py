"""A layer unpacked here and the same tar extracted by GNU tar: no difference in anything."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

from tests.archives import docker_archive
from tests.root.images_lab import layer_directory, load, service

LONG = "n" * 120
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # net_bind_service, effective


def build(tree: Path) -> None:
    """One of everything that an image's file system may have."""
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 1000)
    (tree / "empty").touch()
    (tree / "suid").write_bytes(b"#!/bin/sh\n")
    os.chown(tree / "suid", 12, 34)
    (tree / "suid").chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    os.link(tree / "file", tree / "hard")
    os.symlink("file", tree / "soft")
    os.symlink("/nowhere/" + LONG, tree / "dangling")
    os.lchown(tree / "soft", 1000, 1_000_000)
    deep = tree / LONG / LONG
    deep.mkdir(parents=True)
    (deep / LONG).write_text("long")
    os.link(deep / LONG, tree / "hard-to-long")
    (tree / "ünïcode \n and spaces").write_text("name")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.setxattr(tree / "file", "user.note", b"binary \0\xff\n")
    os.setxattr(tree / "suid", "security.capability", CAPABILITY)
    os.setxattr(tree / "sticky", "user.of-directory", b"x")
    with (tree / "sparse").open("wb") as file:
        for at in (0, 1 << 20, 3 << 20):
            file.seek(at)
            file.write(b"data" * 1024)
        file.truncate(8 << 20)
    with (tree / "many-holes").open("wb") as file:
        for at in range(0, 4 << 20, 128 << 10):
            file.seek(at)
            file.write(b"x")
    os.utime(tree / "file", ns=(1, 1_234_567_890_123_456_789))
    os.utime(tree / "empty", ns=(1, -5_000_000_000))
    os.utime(tree / "soft", ns=(1, 999_999_999_999), follow_symlinks=False)
    os.utime(deep, ns=(1, 86_400_000_000_001))
    os.utime(tree, ns=(1, 4_000_000_000_000_000_000))


def snapshot(tree: Path) -> dict[str, tuple[object, ...]]:
    inodes: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for path in (tree, *sorted(tree.rglob("*"))):
        state = path.lstat()
        name = str(path.relative_to(tree))
        content: object = b""
        if stat.S_ISREG(state.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(state.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        linked_to = inodes.setdefault(state.st_ino, name)
        size = 0 if path.is_dir() else state.st_size
        found[name] = (
            *(oct(state.st_mode), state.st_uid, state.st_gid, state.st_mtime_ns, state.st_rdev),
            *(size, state.st_nlink, linked_to, content, xattrs),
        )
    return found


FORMS = {
    "pax": ["--format=pax"],
    "pax, sparse 1.0": ["--format=pax", "--sparse", "--sparse-version=1.0"],
    "pax, sparse 0.1": ["--format=pax", "--sparse", "--sparse-version=0.1"],
    "pax, sparse 0.0": ["--format=pax", "--sparse", "--sparse-version=0.0"],
    "gnu": ["--format=gnu"],
    "gnu, sparse": ["--format=gnu", "--sparse"],
}


def tar(*arguments: str) -> None:
    subprocess.run(["tar", *arguments], check=True)


async def test_every_form(tmp_path: Path) -> None:
    source = tmp_path / "source"
    build(source)
    async with service(tmp_path / "root") as images:
        for form, options in FORMS.items():
            more = ["--xattrs", "--xattrs-include=*"] if form.startswith("pax") else []
            archive = tmp_path / "layer.tar"
            extracted = tmp_path / form
            extracted.mkdir()
            tar("-C", str(source), *options, *more, "-cf", str(archive), ".")
            tar("-C", str(extracted), "-xpf", str(archive), "--numeric-owner", *more)
            (image,), _ = await load(images, docker_archive(["lab:1"], [archive.read_bytes()]))
            directory = layer_directory(tmp_path / "root", image.chain_ids[0])
            unpacked, expected = snapshot(directory), snapshot(extracted)
            assert unpacked.keys() == expected.keys(), form
            for name, facts in expected.items():
                assert unpacked[name] == facts, f"{form}: {name}"
            if "sparse" in form:
                assert (directory / "sparse").stat().st_blocks < 200, form
