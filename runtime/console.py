"""Library: the container's terminal, run on the child side.

The pair is made in the container's own devpts, so that /dev/pts/N exists there. The terminal is
opened by TIOCGPTPEER from the master and never by its name, which the container could have
replaced (CVE-2025-52565).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from contextlib import ExitStack

from runtime import syscalls
from runtime.errors import RuntimeFailure
from runtime.rootpath import Root
from runtime.spec import ConsoleSize
from runtime.syscalls import AT_EMPTY_PATH, OPEN_TREE_CLONE

TIOCGPTPEER = 0x5441  # asm-generic/ioctls.h; Python's termios lacks both
TIOCSPTLCK = 0x40045431
PTMX = os.makedev(5, 2)


def open_pair(root: Root, size: ConsoleSize | None) -> tuple[int, int]:
    """(master, terminal)."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    with ExitStack() as undo:
        try:
            master = root.open_if("/dev/pts/ptmx", flags, _is_ptmx)
            undo.callback(os.close, master)
            fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
            terminal = fcntl.ioctl(master, TIOCGPTPEER, flags)
            undo.callback(os.close, terminal)
            if size is not None:
                set_size(terminal, size)
        except OSError as error:
            raise RuntimeFailure.from_os("console", error, "unable to open a terminal") from error
        undo.pop_all()
    return master, terminal


def _is_ptmx(fd: int) -> bool:
    about = os.fstat(fd)
    if not stat.S_ISCHR(about.st_mode) or about.st_rdev != PTMX:
        raise RuntimeFailure("console", "/dev/pts/ptmx is not a pseudo-terminal master")
    if syscalls.fstatfs_type(fd) != syscalls.DEVPTS_SUPER_MAGIC:
        raise RuntimeFailure("console", "/dev/pts is not a devpts file system")
    return True


def set_size(fd: int, size: ConsoleSize) -> None:
    # The kernel's fields have 16 bits; what is more is cut off, as by runc.
    rows, columns = size.height & 0xFFFF, size.width & 0xFFFF
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def control(terminal: int) -> None:
    """Make it the session's controlling terminal; the caller is the session's leader."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def mount_on_dev_console(root: Root, terminal: int) -> None:
    try:
        tree = syscalls.open_tree(terminal, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
        directory = root.make_directory("/dev")
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_PATH | os.O_CLOEXEC
        try:
            make = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open("console", make, 0o666, dir_fd=directory))
        except FileExistsError:
            pass
        target = os.open("console", flags & ~os.O_CREAT, dir_fd=directory)
        if stat.S_ISLNK(os.fstat(target).st_mode):
            raise RuntimeFailure("console", "/dev/console is a symbolic link")
        syscalls.move_mount(tree, target)
        for fd in (tree, directory, target):
            os.close(fd)
    except OSError as error:
        raise RuntimeFailure.from_os("console", error, "unable to mount /dev/console") from error
