"""Library: paths inside a root file system that its owner may have made hostile.

Everything that a container's creation touches below the root goes through ``Root``: a descriptor
of the root directory and openat2(RESOLVE_IN_ROOT), so that neither a symbolic link nor ".." nor a
rename under our feet leads out of it. Answers are descriptors; nothing here returns a path that
somebody would resolve again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from runtime import syscalls
from runtime.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)

O_DIR = os.O_PATH | os.O_DIRECTORY
IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
MAX_LINKS = 40  # as the kernel's own limit
ONE_NAME = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def components(path: str) -> list[str]:
    """``path`` as names below the root; ".." is taken lexically, as runc does."""
    clean = os.path.normpath("/" + path)
    return [name for name in clean.split("/") if name]


class Root:
    """Owns ``fd``, an O_PATH descriptor of the root directory.

    ``outside``: for a process that the container's cgroup does not keep from opening devices, and
    with the host's /proc. It opens nothing before it knows what that is.
    """

    def __init__(self, fd: int, *, outside: bool = False) -> None:
        self.fd = fd
        self._outside = outside

    def open(self, path: str, flags: int = os.O_PATH, *, no_symlinks: bool = False) -> int:
        resolve = IN_ROOT | (RESOLVE_NO_SYMLINKS if no_symlinks else 0)
        return syscalls.openat2(self.fd, path.lstrip("/") or ".", flags, resolve=resolve)

    def make_directory(self, path: str, mode: int = 0o755, *, no_symlinks: bool = False) -> int:
        """An O_PATH descriptor of the directory ``path``, made with its parents if missing."""
        names = components(path)
        missing: list[str] = []
        links = 0
        while True:
            try:
                fd = self.open("/".join(names), O_DIR, no_symlinks=no_symlinks)
                break
            except FileNotFoundError:
                target = None if no_symlinks else self._dangling(names)
                if target is None:
                    missing.append(names.pop())
                    continue
                # What a link leads to is made inside the root, as runc's SecureJoin has it.
                links += 1
                if links > MAX_LINKS:
                    raise
                names = target
        while missing:
            fd = _enter_new_directory(fd, missing.pop(), mode)
        return fd

    def _dangling(self, names: list[str]) -> list[str] | None:
        """Where ``names`` leads to if its last one is a link whose target is missing."""
        if not names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/")
        *directories, last = names
        try:
            parent = self.open("/".join(directories), O_DIR)
        except FileNotFoundError:
            return None
        try:
            target = os.readlink(last, dir_fd=parent)
        except OSError:
            return None
        finally:
            os.close(parent)
        return components(target if target.startswith("/") else "/".join([*directories, target]))

    def parent(self, path: str) -> tuple[int, str]:
        """The directory that holds ``path``, made if missing, and the last name."""
        *directories, name = components(path)
        return self.make_directory("/".join(directories)), name

    def make_file(self, path: str, mode: int = 0o644) -> int:
        """An O_PATH descriptor of the file ``path``, made empty with its parents if missing."""
        try:
            return self.open(path)
        except FileNotFoundError:
            directory, name = self.parent(path)
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY
        try:
            os.close(os.open(name, flags, mode, dir_fd=directory))
            return syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=ONE_NAME)
        finally:
            os.close(directory)

    def read_file(self, path: str, limit: int, *, longer: Exception | None = None) -> bytes | None:
        """Content of a regular file of at most ``limit`` bytes; None if there is no such file.

        ``longer`` is raised of a longer one, if given.

        Never blocks: whoever made the root may have put a FIFO or a device there.
        """
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

        def readable(fd: int) -> bool:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                return False
            if longer is not None and about.st_size > limit:
                raise longer
            return about.st_size <= limit

        try:
            fd = self.open_if(path, flags, readable)
        except OSError:
            return None
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)

    def open_if(self, path: str, flags: int, acceptable: Callable[[int], bool]) -> int:
        """EINVAL if ``acceptable`` says so of a descriptor, outside of one that opened nothing."""
        fd = self.open(path, os.O_PATH if self._outside else flags)
        try:
            if not acceptable(fd):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            if self._outside:
                found, fd = fd, os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
                os.close(found)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _enter_new_directory(parent: int, name: str, mode: int) -> int:
    try:
        # It may have been made meanwhile, or be a dangling link, which the open refuses.
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=parent)
        return syscalls.openat2(parent, name, O_DIR | os.O_NOFOLLOW, resolve=ONE_NAME)
    finally:
        os.close(parent)
