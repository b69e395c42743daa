"""Unpacker: apply a layer's tar to the current root directory, as overlayfs wants to find it.

Runs in the confined child that ``images/unpack.py`` forks, whose root is the layer's directory
(pivot_root): symlinks in the archive resolve inside it whatever they say, and no other process
touches the tree meanwhile. The rules are those of the OCI image-spec ("apply, not extract"): a
directory over a directory replaces attributes only, anything else replaces what was there,
and nothing is ever written through an object that the archive made.

Whiteouts become overlayfs's own: ``.wh.NAME`` a character device 0:0, ``.wh..wh..opq`` the name of
the directory in ``Result.opaque``; its xattr needs CAP_SYS_ADMIN, which the child has given up.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass, field

from common import tar
from common.fileparts import set_xattrs, write_content

ENTRY_LIMIT = 4_000_000
ID_LIMIT = (1 << 32) - 1
DISK_RESERVE = 64 << 20  # left free, so that the engine's database can still be written
RESERVE_CHECK_BYTES = 64 << 20
PATH_MAX = 4096

WHITEOUT = b".wh."
WHITEOUT_META = b".wh..wh."
OPAQUE = b".wh..wh..opq"


class HostileArchive(Exception):
    """The archive asks for something that a layer must not contain."""


@dataclass(slots=True)
class Result:
    size: int = 0  # of regular files and symlinks, as Docker counts a layer
    entries: int = 0
    opaque: set[bytes] = field(default_factory=set)


class Applier:
    def __init__(self, *, whiteouts: bool = True, ownership: bool = True) -> None:
        self.result = Result()
        self._whiteouts = whiteouts
        self._ownership = ownership
        self._directory_times: dict[bytes, int] = {}
        self._hidden: set[bytes] = set()  # whiteouts made, by the path they hide
        self._unchecked = 0

    def apply(self, reader: tar.Reader) -> Result:
        self._check_space(0)
        for entry in reader:
            self.result.entries += 1
            if self.result.entries > ENTRY_LIMIT:
                raise HostileArchive(f"more than {ENTRY_LIMIT} entries")
            path = clean(entry.name)
            if self._whiteouts and self._whiteout(path):
                continue
            self._create(path, entry, reader)
        for path, mtime in self._directory_times.items():
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        return self.result

    def _whiteout(self, path: bytes) -> bool:
        """Whether ``path`` was a whiteout, which then was dealt with."""
        if WHITEOUT not in path:
            return False
        parent, _, base = path.rpartition(b"/")
        if path.startswith(WHITEOUT_META) and base != OPAQUE:
            return True  # aufs's own (.wh..wh.plnk, .wh..wh.aufs): nothing to us
        if parent.startswith(WHITEOUT) or b"/" + WHITEOUT in parent:
            raise HostileArchive(f"{show(path)}: below a whiteout")
        if not base.startswith(WHITEOUT):
            return False
        if base == OPAQUE:
            self._make_directory(parent)
            self.result.opaque.add(parent)
        elif not base.startswith(WHITEOUT_META):
            hidden = base[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise HostileArchive(f"{show(path)}: invalid whiteout")
            self._hide(parent + b"/" + hidden if parent else hidden)
        return True

    def _hide(self, path: bytes) -> None:
        """Hide the lower layers' ``path``; an entry of this same layer stays."""
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            self._make_parents(path)
            os.mknod(path, stat.S_IFCHR, 0)
            self._hidden.add(path)
        else:
            if stat.S_ISDIR(mode):
                self.result.opaque.add(path)

    def _create(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        if not path and entry.type != tar.DIRECTORY:
            raise HostileArchive("the layer's root is not a directory")
        if max(entry.uid, entry.gid) >= ID_LIMIT:
            raise HostileArchive(f"{show(path)}: invalid owner {entry.uid}:{entry.gid}")
        try:
            self._create_once(path, entry, reader)
        except (FileNotFoundError, NotADirectoryError):
            if entry.type == tar.HARDLINK and not _exists(clean(entry.linkname)):
                raise HostileArchive(
                    f"{show(path)}: hard link to {show(entry.linkname)}, which is not in this layer"
                ) from None
            self._make_parents(path)
            self._create_once(path, entry, reader)

    def _create_once(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        try:
            self._make(path, entry, reader)
        except FileExistsError:
            if entry.type == tar.DIRECTORY and _is_directory(path):
                self._set_attributes(path, entry)
                return
            if entry.type == tar.HARDLINK and _same(path, clean(entry.linkname)):
                return
            self._remove(path)
            self._make(path, entry, reader)
        if entry.type == tar.DIRECTORY and path in self._hidden:
            # Hidden first, made anew after: what the lower layers have below stays hidden.
            self.result.opaque.add(path)
        self._hidden.discard(path)

    def _make(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        kind = entry.type
        if kind == tar.REGULAR:
            self._make_file(path, entry, reader)
            return
        if kind == tar.HARDLINK:
            os.link(clean(entry.linkname), path, follow_symlinks=False)
            return
        if kind == tar.DIRECTORY:
            os.mkdir(path or b".", 0o700)
        elif kind == tar.SYMLINK:
            os.symlink(entry.linkname, path)
            self.result.size += len(entry.linkname)
        elif kind == tar.FIFO:
            os.mkfifo(path, 0o600)
        else:
            if kind == tar.CHARACTER and entry.major == 0 and entry.minor == 0:
                raise HostileArchive(f"{show(path)}: character device 0:0")
            mode = stat.S_IFCHR if kind == tar.CHARACTER else stat.S_IFBLK
            os.mknod(path, mode | 0o600, os.makedev(entry.major, entry.minor))
        self._set_attributes(path, entry)

    def _make_file(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        self._check_space(entry.real_size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            write_content(fd, entry, reader)
            if self._ownership and (entry.uid or entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs)
            os.fchmod(fd, entry.mode)  # after chown, which clears setuid
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)
        self.result.size += entry.real_size

    def _set_attributes(self, path: bytes, entry: tar.Entry) -> None:
        """Of anything but a regular file; the last component is never followed."""
        path = path or b"."
        if self._ownership:
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if entry.xattrs:
            set_xattrs(path, entry.xattrs)
        if entry.type != tar.SYMLINK:
            os.chmod(path, entry.mode)
        if entry.type == tar.DIRECTORY:
            self._directory_times[path] = entry.mtime
        else:
            os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

    def _make_parents(self, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        if parent:
            self._make_directory(parent)

    def _make_directory(self, path: bytes) -> None:
        """Missing parents are root's and 0755; a non-directory in the way is replaced."""
        if _is_directory_or_link(path):
            return
        self._make_parents(path)
        if os.path.lexists(path):
            self._remove(path)
        os.mkdir(path, 0o755)
        if path in self._hidden:
            self._hidden.discard(path)
            self.result.opaque.add(path)

    def _remove(self, path: bytes) -> None:
        if not path:
            raise HostileArchive("the layer's root is not a directory")
        if not _is_directory(path):
            os.unlink(path)
            return
        shutil.rmtree(path)
        below = path + b"/"
        for known in [p for p in self._directory_times if p == path or p.startswith(below)]:
            del self._directory_times[known]
        for names in (self.result.opaque, self._hidden):
            names -= {p for p in names if p == path or p.startswith(below)}

    def _check_space(self, wanted: int) -> None:
        self._unchecked += wanted
        if wanted and self._unchecked < RESERVE_CHECK_BYTES:
            return
        state = os.statvfs(b".")
        if state.f_bavail * state.f_frsize < self._unchecked + DISK_RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unchecked = 0


def clean(name: bytes) -> bytes:
    """``name`` relative to the layer's root, b"" for the root itself."""
    if len(name) > PATH_MAX:
        raise HostileArchive(f"{show(name)}: name too long")
    if b"." not in name and b"//" not in name:
        return name.strip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise HostileArchive(f"{show(name)} is outside of the layer")
            parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


def show(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "backslashreplace"))


def _is_directory(path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(path or b".").st_mode)


def _is_directory_or_link(path: bytes) -> bool:
    """Symlinks to directories count, as they do for Docker: the root confines them."""
    try:
        return stat.S_ISDIR(os.stat(path or b".").st_mode)
    except OSError:
        return False


def _exists(path: bytes) -> bool:
    return os.path.lexists(path)


def _same(path: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False
