"""Library: the ids of a user namespace on files that the host keeps with their own ids.

Used by the parent side of create, and by lifecycle for mounts of its own. A file on disk
has the id that it has in the container; a mount with a mapping shows it as the host's id behind
that. overlayfs takes a mapping from the mounts that its layers lie on, so they are covered by
mapped ones while it is created: in a mount namespace that exists only for that moment, so that
nothing has to be cleaned up, whatever happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from runtime import namespaces, syscalls
from runtime.spec import IDMapping

_DIRECTORIES = frozenset(("lowerdir", "lowerdir+", "upperdir", "workdir"))


def root_of(pid: int) -> tuple[int, int]:
    """The host's ids behind 0:0 in the user namespace of that process."""
    return _host_id(f"/proc/{pid}/uid_map"), _host_id(f"/proc/{pid}/gid_map")


def _host_id(path: str) -> int:
    with open(path) as file:
        for line in file:
            inside, outside, _size = map(int, line.split())
            if inside == 0:
                return outside
    return -1  # which chown(2) leaves alone


def owner(uids: Iterable[IDMapping], gids: Iterable[IDMapping]) -> tuple[int, int]:
    """The same, of a mapping that is to be."""
    return _first(uids), _first(gids)


def _first(mappings: Iterable[IDMapping]) -> int:
    return next((each.host_id for each in mappings if each.container_id == 0), -1)


def inverse(mappings: Sequence[IDMapping]) -> tuple[IDMapping, ...]:
    """Shows what the container has made on the host as the container sees it.

    The ids that this hides change places with it where they can: nobody, not even root, may write
    to what has no id on a mount.
    """
    back = tuple(IDMapping(each.host_id, each.container_id, each.size) for each in mappings)
    end = max((each.container_id + each.size for each in mappings), default=0)
    apart = all(each.host_id >= end for each in mappings)
    return back + tuple(mappings) if apart else back


@contextmanager
def mapped_layers(options: Sequence[str], userns_fd: int, owner: tuple[int, int]) -> Iterator[None]:
    """Paths in these options of overlayfs lead to mapped mounts, for the calling thread.

    overlayfs makes files of its own as whoever mounts it. That is ``owner``, the host's ids behind
    the mapping's 0:0, since the host's root has no id on a mapped mount.
    """
    paths = list(_paths(options))
    with namespaces.private_mounts():
        for path in _covering(paths):
            _cover(path, userns_fd)
        with _owning(owner):
            yield


@contextmanager
def _owning(owner: tuple[int, int]) -> Iterator[None]:
    """With all capabilities, which a change of the id would otherwise take away.

    The kernel resets two more things at such a change.
    """
    dumpable = syscalls.prctl(syscalls.PR_GET_DUMPABLE)
    death_signal = syscalls.parent_death_signal()
    bits = syscalls.prctl(syscalls.PR_GET_SECUREBITS)
    syscalls.prctl(syscalls.PR_SET_SECUREBITS, bits | syscalls.SECBIT_NO_SETUID_FIXUP)
    try:
        syscalls.setfsids(*owner)
        yield
    finally:
        syscalls.setfsids(os.geteuid(), os.getegid())
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, bits)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, dumpable)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, death_signal)


def _paths(options: Sequence[str]) -> Iterator[str]:
    for option in options:
        name, _, value = option.partition("=")
        if name in _DIRECTORIES:
            yield from map(os.path.realpath, value.split(":") if name == "lowerdir" else [value])


def _covering(paths: Sequence[str]) -> Iterator[str]:
    """One directory for all that lies below it on its file system.

    Each mount costs, and the upper and the work directory must be on the same one.
    """
    by_device: dict[int, list[str]] = {}
    for path in paths:
        by_device.setdefault(os.stat(path).st_dev, []).append(path)
    for device, group in by_device.items():
        common = os.path.commonpath(group)
        # What is mounted over "/" itself is not met on the way to anything.
        if common != "/" and os.stat(common).st_dev == device:
            yield common
        else:
            yield from group


def _cover(path: str, userns_fd: int) -> None:
    with ExitStack() as opened:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        opened.callback(os.close, tree)
        syscalls.mount_setattr(tree, set_=syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, target)
        syscalls.move_mount(tree, target)
