"""Library: what a file has besides its name and mode: content with holes, extended attributes.

Used where tars become files (the unpackers, the zygote's jobs) and files become tars. Everything
works on descriptors or on a name that is not followed; nothing is looked up elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from common import tar

ALIGNMENT = 1 << 16  # bytes
NO_ATTRIBUTES = (errno.EOPNOTSUPP, errno.EPERM)


def write_content(fd: int, entry: tar.Entry, reader: tar.Reader) -> None:
    """The data of ``entry``, which the reader is at, into an empty file."""
    if entry.sparse is None:
        _write_all(fd, reader.data())
        return
    at = 0
    for offset, length in entry.sparse:
        if offset < at or offset + length > entry.real_size:
            raise tar.CorruptArchive("corrupt sparse map")
        os.lseek(fd, offset, os.SEEK_SET)
        _write_all(fd, reader.data(length))
        at = offset + length
    os.ftruncate(fd, entry.real_size)


def _write_all(fd: int, parts: Iterator[memoryview]) -> None:
    """From where ``fd`` is, up to multiples of ALIGNMENT: a quarter faster, with large folios."""
    at, rest = os.lseek(fd, 0, os.SEEK_CUR), b""
    for part in parts:
        late = (at + len(rest) + len(part)) % ALIGNMENT
        if late > len(part):
            rest += part
            continue
        split = len(part) - late
        at += _write(fd, rest, part[:split])
        rest = bytes(part[split:])
    _write(fd, rest, memoryview(b""))


def _write(fd: int, first: bytes, second: memoryview) -> int:
    size = len(first) + len(second)
    written = os.writev(fd, (first, second)) if size else 0
    while written < size:
        left = first[written:] or second[written - len(first) :]
        written += os.write(fd, left)
    return size


def is_xattr_allowed(key: bytes) -> bool:
    """overlayfs's own would reach into other layers; trusted.* is the host's."""
    if key.startswith(b"user."):
        return not key.startswith(b"user.overlay.")
    return key in (
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    )


def set_xattrs(target: int | bytes, xattrs: dict[bytes, bytes]) -> None:
    """The allowed ones; a path is not followed."""
    for key, value in xattrs.items():
        if not is_xattr_allowed(key):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, key, value)
            else:
                os.setxattr(target, key, value, follow_symlinks=False)
        except OSError as e:
            # The file system has none, or user.* on a symlink or device: the file is of more use.
            if e.errno not in NO_ATTRIBUTES:
                raise


def get_xattrs(fd: int) -> dict[bytes, bytes]:
    """The allowed ones."""
    kept: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(fd)
    except OSError as e:
        if e.errno in NO_ATTRIBUTES:
            return kept
        raise
    for name in names:
        key = os.fsencode(name)
        if is_xattr_allowed(key):
            kept[key] = os.getxattr(fd, name)
    return kept
