"""Library: "tmpcopyup", a tmpfs that starts with what the directory below it holds.

Run by the container's child side on a detached tmpfs. Names come from the image, so each is opened
relative to its directory's descriptor and never through a symbolic link.
"""

from __future__ import annotations

import os
import stat

CHUNK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Fill the directory ``target`` (O_PATH allowed) from ``source``, which is closed."""
    try:
        writable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
        try:
            _copy_directory(source, writable)
        finally:
            os.close(writable)
    finally:
        os.close(source)


def _copy_directory(source: int, target: int) -> None:
    for name in os.listdir(source):
        about = os.stat(name, dir_fd=source, follow_symlinks=False)
        _copy_entry(name, about, source, target)
    about = os.fstat(source)
    os.fchown(target, about.st_uid, about.st_gid)
    os.fchmod(target, stat.S_IMODE(about.st_mode))
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))


def _copy_entry(name: str, about: os.stat_result, source: int, target: int) -> None:
    if stat.S_ISDIR(about.st_mode):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, flags, dir_fd=source)
        try:
            made = os.open(name, flags, dir_fd=target)
            try:
                _copy_directory(inner, made)
            finally:
                os.close(made)
        finally:
            os.close(inner)
        return
    if stat.S_ISREG(about.st_mode):
        _copy_file(name, source, target)
    elif stat.S_ISLNK(about.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, about.st_mode, about.st_rdev, dir_fd=target)
    os.chown(name, about.st_uid, about.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(about.st_mode):
        os.chmod(name, stat.S_IMODE(about.st_mode), dir_fd=target)
    times = (about.st_atime_ns, about.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _copy_file(name: str, source: int, target: int) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    reader = os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=source)
    try:
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        writer = os.open(name, create | flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, CHUNK):
                pass
        finally:
            os.close(writer)
    finally:
        os.close(reader)
