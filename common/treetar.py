"""Library: a directory tree as a tar, for ``docker cp``, export and commit.

The tree is a container's and hostile, and may change while it is read: every object is opened from
its parent's descriptor and never through a link, and a file is written with the size that was
announced for it, whatever it has become. Names and links are bytes, owners are numbers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Protocol

from common import tar
from common.fileparts import get_xattrs

DEPTH_LIMIT = 1000
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SECOND = 1_000_000_000
_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFIFO: tar.FIFO,
}


class Sink(Protocol):
    """Where the tar goes."""

    def write(self, data: bytes) -> None: ...

    def copy(self, fd: int, size: int) -> None:
        """Exactly ``size`` bytes: what the file has from its start, then zeros."""


class TreeWriter:
    """``whole_seconds`` as Docker writes times; a fraction costs a header of its own per file."""

    def __init__(self, sink: Sink, *, whole_seconds: bool = False) -> None:
        self._sink = sink
        self._whole_seconds = whole_seconds
        self._links: dict[tuple[int, int], bytes] = {}
        self.size = 0  # as Docker counts a layer: regular files and symlinks

    def contents(self, directory: int, prefix: bytes, depth: int = 0) -> None:
        """What is in ``directory``, in the order of names."""
        if depth > DEPTH_LIMIT:
            raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply")
        for name in sorted(os.fsencode(entry) for entry in os.listdir(directory)):
            try:
                state = os.stat(name, dir_fd=directory, follow_symlinks=False)
                self.object(directory, name, prefix + name, state, depth)
            except FileNotFoundError:
                continue  # gone since it was listed

    def object(
        self, directory: int, name: bytes, shown: bytes, state: os.stat_result, depth: int = 0
    ) -> None:
        """One object and all below it, as ``shown`` in the archive."""
        kind = _KINDS.get(stat.S_IFMT(state.st_mode))
        if kind is None:
            return  # a socket: tar has none
        entry = self._entry(shown, kind, state)
        if kind == tar.DIRECTORY:
            self._directory(directory, name, entry, depth)
            return
        if state.st_nlink > 1:
            known = self._links.setdefault((state.st_dev, state.st_ino), entry.name)
            if known != entry.name:
                entry.type, entry.linkname = tar.HARDLINK, known
                self._sink.write(tar.header(entry))
                return
        if kind == tar.REGULAR:
            self._file(directory, name, entry)
            return
        if kind == tar.SYMLINK:
            entry.linkname = os.readlink(name, dir_fd=directory)
            self.size += len(entry.linkname)
        self._sink.write(tar.header(entry))

    def root(self, directory: int, shown: bytes) -> None:
        """``directory`` itself and all below it; ``shown`` ends in a slash."""
        entry = self._entry(shown, tar.DIRECTORY, os.fstat(directory))
        entry.xattrs = get_xattrs(directory)
        self._sink.write(tar.header(entry))
        self.contents(directory, shown)

    def end(self) -> None:
        self._sink.write(tar.end())

    def is_entered(self, directory: int) -> bool:
        """Whether what is in a directory belongs to the tree."""
        return True

    def _entry(self, shown: bytes, kind: bytes, state: os.stat_result) -> tar.Entry:
        mtime = state.st_mtime_ns
        entry = tar.Entry(
            name=shown,
            type=kind,
            mode=stat.S_IMODE(state.st_mode),
            uid=state.st_uid,
            gid=state.st_gid,
            size=0,
            mtime=mtime - mtime % _SECOND if self._whole_seconds else mtime,
        )
        if kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(state.st_rdev), os.minor(state.st_rdev)
        return entry

    def _directory(self, directory: int, name: bytes, entry: tar.Entry, depth: int) -> None:
        fd = os.open(name, DIRECTORY, dir_fd=directory)
        try:
            entry.name += b"/"
            entry.xattrs = get_xattrs(fd)
            self._sink.write(tar.header(entry))
            if self.is_entered(fd):
                self.contents(fd, entry.name, depth + 1)
        finally:
            os.close(fd)

    def _file(self, directory: int, name: bytes, entry: tar.Entry) -> None:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                raise FileNotFoundError(errno.ENOENT, "replaced while it was read")
            entry.size = state.st_size
            entry.xattrs = get_xattrs(fd)
            self._sink.write(tar.header(entry))
            self._sink.copy(fd, entry.size)
            self._sink.write(bytes(-entry.size % tar.BLOCK))
            self.size += entry.size
        finally:
            os.close(fd)


def pieces(fd: int, size: int, limit: int) -> Iterable[bytes]:
    """Exactly ``size`` bytes of ``fd``, with zeros for what has been cut off meanwhile."""
    left = size
    while left:
        piece = os.read(fd, min(limit, left)) or bytes(min(limit, left))
        left -= len(piece)
        yield piece
