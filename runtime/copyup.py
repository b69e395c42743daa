"""Library: "tmpcopyup", a tmpfs that starts with what the directory below it holds; and the same
for a new volume.

Run by the container's child side on a detached tmpfs, and by a job of the zygote's on a volume.
Names come from the image, so each is opened relative to its directory's descriptor and never
through a symbolic link.
"""

from __future__ import annotations

import os
import stat

from common.fileparts import get_xattrs, set_xattrs

CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int) -> None:
    """Fill the directory ``target`` (O_PATH allowed) from ``source``, which is closed."""
    try:
        writable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
        try:
            _Copy(writable).directory(source, writable, "")
        finally:
            os.close(writable)
    finally:
        os.close(source)


class _Copy:
    def __init__(self, top: int) -> None:
        self._top = top
        # Where the first name of a file with several of them was copied to, below ``top``.
        self._first: dict[tuple[int, int], str] = {}

    def directory(self, source: int, target: int, path: str) -> None:
        for name in os.listdir(source):
            about = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._entry(name, about, source, target, path + name)
        about = os.fstat(source)
        os.fchown(target, about.st_uid, about.st_gid)
        set_xattrs(target, get_xattrs(source))
        os.fchmod(target, stat.S_IMODE(about.st_mode))
        os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))

    def _entry(self, name: str, about: os.stat_result, source: int, target: int, path: str) -> None:
        if stat.S_ISDIR(about.st_mode):
            self._below(name, source, target, path)
            return
        if about.st_nlink > 1:
            first = self._first.setdefault((about.st_dev, about.st_ino), path)
            if first != path:
                top = self._top
                os.link(first, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
                return
        if stat.S_ISREG(about.st_mode):
            _copy_file(name, about, source, target)
            return
        if stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, about.st_mode, about.st_rdev, dir_fd=target)
        os.chown(name, about.st_uid, about.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(about.st_mode):
            os.chmod(name, stat.S_IMODE(about.st_mode), dir_fd=target)
        times = (about.st_atime_ns, about.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)

    def _below(self, name: str, source: int, target: int, path: str) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            made = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(inner, made, path + "/")
            finally:
                os.close(made)
        finally:
            os.close(inner)


def _copy_file(name: str, about: os.stat_result, source: int, target: int) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=source)
    try:
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        writer = os.open(name, create | flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, CHUNK):
                pass
            os.fchown(writer, about.st_uid, about.st_gid)
            set_xattrs(writer, get_xattrs(reader))
            os.fchmod(writer, stat.S_IMODE(about.st_mode))
            os.utime(writer, ns=(about.st_atime_ns, about.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)
