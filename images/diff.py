"""Worker: a container's upper directory as a layer's tar.

The directory's content is the container's and hostile, and may change while it is read: every
object is opened from its parent's descriptor and never through a link, and a file is written with
the size that was announced for it, whatever it has become. overlayfs's whiteouts and opaque
directories become those of the OCI image-spec.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from images import tar
from images.apply import OPAQUE, WHITEOUT, is_xattr_allowed

PIECE = 1 << 18
DEPTH_LIMIT = 1000
_OPAQUE_XATTR = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFIFO: tar.FIFO,
}

Write = Callable[[bytes], None]


class LayerWriter:
    def __init__(self, write: Write) -> None:
        self._write = write
        self._links: dict[tuple[int, int], bytes] = {}
        self.size = 0  # as Docker counts a layer: regular files and symlinks

    def write(self, root: int) -> None:
        """All of ``root``, a directory's descriptor, in the order of names."""
        self._directory(root, b"", 0)
        self._write(tar.end())

    def _directory(self, directory: int, prefix: bytes, depth: int) -> None:
        if depth > DEPTH_LIMIT:
            raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply")
        if _is_opaque(directory) and prefix:
            self._empty(prefix + OPAQUE)
        for name in sorted(os.fsencode(entry) for entry in os.listdir(directory)):
            try:
                state = os.stat(name, dir_fd=directory, follow_symlinks=False)
                self._object(directory, name, prefix, state, depth)
            except FileNotFoundError:
                continue  # gone since it was listed

    def _object(
        self, directory: int, name: bytes, prefix: bytes, state: os.stat_result, depth: int
    ) -> None:
        kind = _KINDS.get(stat.S_IFMT(state.st_mode))
        if kind is None:
            return  # a socket: tar has none
        if kind == tar.CHARACTER and state.st_rdev == 0:
            self._empty(prefix + WHITEOUT + name)
            return
        entry = tar.Entry(
            name=prefix + name,
            type=kind,
            mode=stat.S_IMODE(state.st_mode),
            uid=state.st_uid,
            gid=state.st_gid,
            size=0,
            mtime=state.st_mtime_ns,
        )
        if kind in (tar.CHARACTER, tar.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(state.st_rdev), os.minor(state.st_rdev)
        if kind != tar.DIRECTORY and state.st_nlink > 1:
            known = self._links.setdefault((state.st_dev, state.st_ino), entry.name)
            if known != entry.name:
                entry.type, entry.linkname = tar.HARDLINK, known
                self._write(tar.header(entry))
                return
        if kind == tar.DIRECTORY:
            self._below(directory, name, entry, depth)
        elif kind == tar.REGULAR:
            self._file(directory, name, entry)
        else:
            if kind == tar.SYMLINK:
                entry.linkname = os.readlink(name, dir_fd=directory)
                self.size += len(entry.linkname)
            self._write(tar.header(entry))

    def _below(self, directory: int, name: bytes, entry: tar.Entry, depth: int) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            entry.name += b"/"
            entry.xattrs = _xattrs(fd)
            self._write(tar.header(entry))
            self._directory(fd, entry.name, depth + 1)
        finally:
            os.close(fd)

    def _file(self, directory: int, name: bytes, entry: tar.Entry) -> None:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            state = os.fstat(fd)
            if not stat.S_ISREG(state.st_mode):
                raise FileNotFoundError(errno.ENOENT, "replaced while it was read")
            entry.size = state.st_size
            entry.xattrs = _xattrs(fd)
            self._write(tar.header(entry))
            for piece in _exactly(fd, entry.size):
                self._write(piece)
            self._write(bytes(-entry.size % tar.BLOCK))
            self.size += entry.size
        finally:
            os.close(fd)

    def _empty(self, name: bytes) -> None:
        self._write(tar.header(tar.Entry(name, tar.REGULAR, 0o600, 0, 0, 0, 0)))


def _exactly(fd: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = os.read(fd, min(PIECE, left)) or bytes(min(PIECE, left))  # truncated meanwhile
        left -= len(piece)
        yield piece


def _xattrs(fd: int) -> dict[bytes, bytes]:
    kept = {}
    for name in os.listxattr(fd):
        key = os.fsencode(name)
        if is_xattr_allowed(key):
            kept[key] = os.getxattr(fd, name)
    return kept


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE_XATTR) == b"y"
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
