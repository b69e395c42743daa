"""Library of lifecycle: mounts on the host, which local volumes with options need.

mount(2) and not fsopen(2): the options are what a user would give to mount(8), and clients know its
failures as Docker words them. Where things are mounted is the kernel's to say, so that nothing here
has to be remembered over a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import InternalError
from runtime import syscalls

MNT_DETACH = 2
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384
MS_PROPAGATION = sum(1 << bit for bit in (17, 18, 19, 20))  # unbindable, private, slave, shared

# linux/mount.h; an option that begins with "no" or has an opposite takes the flag away.
_FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "remount": MS_REMOUNT,
    "mand": 64,
    "dirsync": 128,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "unbindable": 1 << 17,
    "runbindable": 1 << 17 | MS_REC,
    "private": 1 << 18,
    "rprivate": 1 << 18 | MS_REC,
    "slave": 1 << 19,
    "rslave": 1 << 19 | MS_REC,
    "shared": 1 << 20,
    "rshared": 1 << 20 | MS_REC,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
_OPPOSITES = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "nomand": "mand",
    "atime": "noatime",
    "diratime": "nodiratime",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
}


def parse_options(text: str) -> tuple[int, str]:
    """Flags, and what is left for the file system itself."""
    flags, data = 0, []
    for option in text.split(","):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option in _OPPOSITES:
            flags &= ~_FLAGS[_OPPOSITES[option]]
        elif option and option != "defaults":
            data.append(option)
    return flags, ",".join(data)


def mount(device: str, target: Path, filesystem: str, options: str) -> None:
    """Blocking, for long where a server does not answer. Raises InternalError in Docker's words."""
    flags, data = parse_options(options)
    plain = flags & ~MS_PROPAGATION
    _mount(device, target, filesystem, plain, data)
    try:
        if flags & MS_PROPAGATION:
            _mount("", target, "", flags & (MS_PROPAGATION | MS_REC), "")
        if plain & MS_BIND and plain & MS_RDONLY:
            # A bind takes its attributes only from a second call.
            _mount("", target, "", plain | MS_REMOUNT, "")
    except InternalError:
        unmount(target)
        raise


def _mount(device: str, target: Path, filesystem: str, flags: int, data: str) -> None:
    try:
        syscalls.mount(device, os.fspath(target), filesystem, flags, data)
    except OSError as error:
        text = f"mount {device}:{target}" if device else f"mount {target}"
        if flags:
            text += f", flags: {flags:#x}"
        if data:
            text += f", data: {data}"
        raise InternalError(f"{text}: {os.strerror(error.errno or 0).lower()}") from error


def unmount(target: Path) -> None:
    """Everything that is mounted there; what still uses it keeps it, and nobody else sees it."""
    while is_mounted(target):
        syscalls.umount(os.fspath(target), MNT_DETACH)


def is_mounted(target: Path) -> bool:
    return target in mount_points()


def below(directory: Path) -> list[Path]:
    """The mount points in ``directory`` and below, the newest first."""
    return [point for point in reversed(list(mount_points())) if point.is_relative_to(directory)]


def mount_points() -> Iterator[Path]:
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            # proc(5): white space and backslashes of the path are octal escapes.
            path = line.split(b" ", 5)[4].decode("unicode_escape").encode("latin-1")
            yield Path(os.fsdecode(path))
