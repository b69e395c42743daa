"""Job: from a tar to a container's files: ``docker cp`` into it.

The rules are those of Docker's extraction: names are relative to the destination whatever they say,
links in the container are followed on the way to a directory but never at its end, a directory over
a directory is merged, and anything else replaces what was there. All of it happens below the
container's root, by descriptors.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from common import tar
from common.errors import InternalError, InvalidArgument
from common.fileparts import set_xattrs, write_content
from runtime import users
from runtime.errors import reason
from runtime.rootpath import Root
from runtime.spec import User
from runtime.syscalls import RESOLVE_NO_MAGICLINKS, openat2
from shim.jobs import body, paths
from shim.protocol import Message

ID_LIMIT = (1 << 32) - 1
READ_ONLY = os.ST_RDONLY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def put(root: Root, arguments: Message, fds: list[int]) -> Message:
    path = paths.clean(arguments["path"])
    destination = _open_destination(root, path, arguments)
    owner = _owner(root, arguments["user"]) if arguments["copy_uid_gid"] else None
    extraction = Extraction(
        destination, path, owner=owner, strict=arguments["no_overwrite_dir_non_dir"]
    )
    try:
        raw = body.pieces(fds)
        extraction.run(tar.Reader(body.unchunked(raw) if arguments["chunked"] else raw))
    except FileNotFoundError as error:
        raise paths.missing(arguments) from error
    finally:
        extraction.close()
    return {}


def _open_destination(root: Root, path: str, arguments: dict[str, str]) -> int:
    try:
        fd = root.open(path.rstrip("/") or "/", os.O_PATH)
    except OSError as error:
        raise paths.failure(error, path, arguments) from error
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        if path.endswith(("/", "/.")):
            raise InternalError(f"lstat {path}: {reason(errno.ENOTDIR)}")
        raise InvalidArgument("extraction point is not a directory")
    if os.fstatvfs(fd).f_flag & READ_ONLY:
        if os.fstat(fd).st_dev == os.fstat(root.fd).st_dev:
            raise InvalidArgument("container rootfs is marked read-only")
        raise InvalidArgument("mounted volume is marked read-only")
    return fd


def _owner(root: Root, user: str) -> tuple[int, int] | None:
    """The container's user, by its own files; nobody in particular if it has none."""
    if not user:
        return None
    identity = users.resolve(User(username=user), root)
    return identity.uid, identity.gid


class Extraction:
    def __init__(
        self, destination: int, shown: str, *, owner: tuple[int, int] | None, strict: bool
    ) -> None:
        self._destination = destination
        self._shown = shown
        self._owner = owner
        self._strict = strict
        self._parent_path = b""
        self._parent = os.dup(destination)
        self._directory_times: dict[bytes, int] = {}

    def close(self) -> None:
        os.close(self._parent)
        os.close(self._destination)

    def run(self, reader: tar.Reader) -> None:
        for entry in reader:
            path = _clean(entry.name)
            if max(entry.uid, entry.gid) >= ID_LIMIT:
                raise InternalError(f"invalid owner {entry.uid}:{entry.gid} of {_show(path)}")
            if path:
                self._create(path, entry, reader)
        for path, mtime in self._directory_times.items():
            self._set_directory_time(path, mtime)

    def _set_directory_time(self, path: bytes, mtime: int) -> None:
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return  # replaced by a later entry, or by the container
        try:
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _create(self, path: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        directory, _, name = path.rpartition(b"/")
        parent = self._enter(directory)
        try:
            self._make(parent, name, entry, reader)
        except FileExistsError:
            if self._replace(parent, name, path, entry):
                self._make(parent, name, entry, reader)
            else:
                self._set_attributes(parent, name, entry)
        if entry.type == tar.DIRECTORY:
            self._directory_times[path] = entry.mtime

    def _replace(self, parent: int, name: bytes, path: bytes, entry: tar.Entry) -> bool:
        """Clear the way; False if there is a directory that a directory is merged with."""
        there = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        wanted = entry.type == tar.DIRECTORY
        if there and wanted:
            return False
        if self._strict and there != wanted:
            kinds = ("directory", "non-directory") if there else ("non-directory", "directory")
            raise InternalError(
                f"cannot overwrite {kinds[0]} {_show(path)} with {kinds[1]} "
                f"{_show(os.fsencode(self._shown))}"
            )
        if there:
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
        return True

    def _make(self, parent: int, name: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        kind = entry.type
        if kind == tar.REGULAR:
            self._make_file(parent, name, entry, reader)
            return
        if kind == tar.HARDLINK:
            self._link(parent, name, entry.linkname)
            return
        if kind == tar.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif kind == tar.SYMLINK:
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif kind == tar.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            mode = stat.S_IFCHR if kind == tar.CHARACTER else stat.S_IFBLK
            number = os.makedev(entry.major, entry.minor)
            os.mknod(name, mode | 0o600, number, dir_fd=parent)
        self._set_attributes(parent, name, entry)

    def _make_file(self, parent: int, name: bytes, entry: tar.Entry, reader: tar.Reader) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            write_content(fd, entry, reader)
            os.fchown(fd, *self._ids(entry))
            set_xattrs(fd, entry.xattrs)
            os.fchmod(fd, entry.mode)  # after chown, which clears setuid
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _link(self, parent: int, name: bytes, linkname: bytes) -> None:
        try:
            target = _clean(linkname)
        except InternalError:
            raise InternalError(f"invalid hardlink target {_show(linkname)}") from None
        directory, _, old = target.rpartition(b"/")
        fd = self._open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(old, name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _ids(self, entry: tar.Entry) -> tuple[int, int]:
        return self._owner or (entry.uid, entry.gid)

    def _set_attributes(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        """Of anything but a regular file."""
        if entry.type == tar.DIRECTORY:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                os.fchown(fd, *self._ids(entry))
                set_xattrs(fd, entry.xattrs)
                os.fchmod(fd, entry.mode)
            finally:
                os.close(fd)
            return
        uid, gid = self._ids(entry)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.type != tar.SYMLINK:
            self._chmod(parent, name, entry.mode)
        times = (entry.mtime, entry.mtime)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _chmod(self, parent: int, name: bytes, mode: int) -> None:
        """Of a device or a FIFO: not opened, and not followed if it has become a link."""
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return
        os.chmod(name, mode, dir_fd=parent)

    def _open(self, path: bytes, flags: int) -> int:
        """Below the destination; links lead anywhere in the container."""
        return openat2(
            self._destination, os.fsdecode(path) or ".", flags, resolve=RESOLVE_NO_MAGICLINKS
        )

    def _enter(self, directory: bytes) -> int:
        """The directory of the next entry, mostly that of the last one."""
        if directory != self._parent_path:
            fd = self._make_directories(directory)
            os.close(self._parent)
            self._parent, self._parent_path = fd, directory
        return self._parent

    def _make_directories(self, path: bytes) -> int:
        """Missing parents are root's and 0755, or the given owner's."""
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            return self._open(path, flags)
        except FileNotFoundError:
            if not path:
                raise
        above, _, name = path.rpartition(b"/")
        parent = self._make_directories(above)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            if self._owner:
                os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return self._open(path, flags)


def _clean(name: bytes) -> bytes:
    """Relative to the destination, b"" for itself; a leading slash counts for nothing."""
    path = posixpath.normpath(name.lstrip(b"/"))
    if path == b"..":
        raise InternalError(f"invalid entry name {_show(name)}")
    if path.startswith(b"../"):
        raise InternalError(f"invalid entry name {_show(name)}")
    return b"" if path == b"." else path


def _show(name: bytes) -> str:
    text = name[:4096].decode("utf-8", "backslashreplace")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def remove_tree(parent: int, name: bytes) -> None:
    """A directory and all below it, never through a link; mount points stay, as an error."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for entry in os.listdir(fd):
            raw = os.fsencode(entry)
            try:
                os.unlink(raw, dir_fd=fd)
            except IsADirectoryError:
                remove_tree(fd, raw)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
