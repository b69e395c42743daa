"""Library: a container's root file system: its tree, devices, masks, and the step into it.

``open_tree`` and ``host_device`` run in the parent; the rest on the child side, on descriptors of
``Root``, before and after pivot_root alike.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from runtime import mountoptions, mounts, syscalls
from runtime.errors import RuntimeFailure, reason
from runtime.mounts import Operation
from runtime.rootpath import Root, components
from runtime.spec import Device
from runtime.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
)

TYPE_BITS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# config-linux.md, "Default Devices"
DEFAULT_DEVICES = tuple(
    Device(f"/dev/{name}", "c", major, minor, 0o666, 0, 0)
    for name, major, minor in (
        *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8)),
        *(("urandom", 1, 9), ("tty", 5, 0)),
    )
)
# runtime-linux.md, "Dev symbolic links"
LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
MASK_ATTRIBUTES = (
    MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
)


def open_tree(rootfs: str, rootfs_mounts: Sequence[Operation]) -> int:
    """Parent: the root as a detached tree: the first of ``rootfs_mounts``, or the directory."""
    if rootfs_mounts and not components(rootfs_mounts[0].destination):
        return rootfs_mounts[0].tree
    try:
        tree = syscalls.open_tree(AT_FDCWD, rootfs, OPEN_TREE_CLONE | AT_RECURSIVE)
        syscalls.mount_setattr(tree, propagation=syscalls.MS_SLAVE, recursive=True)
    except OSError as error:
        raise RuntimeFailure.from_os("rootfs", error, f"invalid rootfs: stat {rootfs}") from error
    if not stat.S_ISDIR(os.fstat(tree).st_mode):
        os.close(tree)
        raise RuntimeFailure("rootfs", f"invalid rootfs: {rootfs} is not a directory", path=rootfs)
    return tree


def host_device(path: str, rdev: int, kind: int = stat.S_IFCHR) -> int:
    """Parent: a detached tree of a device node of the host, after a look at what it is."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        if stat.S_IFMT(about.st_mode) != kind or about.st_rdev != rdev:
            raise RuntimeFailure("devices", f"{path} is not the device it should be", path=path)
        tree = syscalls.open_tree(fd, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
    except OSError as error:
        raise RuntimeFailure.from_os("devices", error, f"open {path}") from error
    finally:
        os.close(fd)
    # No propagation for a single file, but the clone must not stay the peer of a shared mount.
    syscalls.mount_setattr(tree, propagation=syscalls.MS_PRIVATE)
    return tree


def attach_root(tree: int, rootfs: str) -> None:
    """Child: put the tree where pivot_root can find it."""
    try:
        target = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # In a user namespace the way to the directory may be closed; over "/" it serves as well.
        target = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.move_mount(tree, target)
    except OSError as error:
        raise RuntimeFailure.from_os("rootfs", error, f"error mounting root to {rootfs}") from error
    finally:
        os.close(target)


def pivot(tree: int) -> None:
    """Child: make the tree the root, and let go of the host's."""
    host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(tree)
        # New and old root in one place, as pivot_root(2) describes: no directory is needed for it.
        syscalls.pivot_root(".", ".")
        os.fchdir(host)
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
    except OSError as error:
        raise RuntimeFailure.from_os(
            "pivot_root", error, "error jailing process inside rootfs"
        ) from error
    finally:
        os.close(host)


def move_to_root(tree: int) -> None:
    """Child, with --no-pivot: the tree lies over "/", and the host's mounts stay below it."""
    os.fchdir(tree)
    os.chroot(".")
    os.chdir("/")


@dataclass(frozen=True, slots=True)
class Node:
    """A device to make; ``tree`` is the host's node where mknod is not possible."""

    device: Device
    tree: int = -1


def make_devices(root: Root, nodes: Sequence[Node]) -> None:
    with ExitStack() as opened:
        directories: dict[str, int] = {}
        for node in nodes:
            path, _, name = node.device.path.rpartition("/")
            try:
                if path not in directories:
                    directories[path] = root.make_directory(path)
                    opened.callback(os.close, directories[path])
                _make_device(directories[path], name, node)
            except OSError as error:
                text = (
                    f"error creating device nodes: mknod {path}/{name}: {reason(error.errno or 0)}"
                )
                raise RuntimeFailure("devices", text, errno=error.errno or 0, path=path) from error


def _make_device(directory: int, name: str, node: Node) -> None:
    device = node.device
    if node.tree >= 0:
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY | os.O_NONBLOCK
        os.close(os.open(name, flags, 0o644, dir_fd=directory))
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        syscalls.move_mount(node.tree, target)
        os.close(target)
        os.close(node.tree)
        return
    # The umask is 0.
    mode = 0o666 if device.file_mode is None else stat.S_IMODE(device.file_mode)
    number = os.makedev(device.major, device.minor)
    try:
        os.mknod(name, TYPE_BITS[device.type] | mode, number, dir_fd=directory)
    except FileExistsError:
        _take_existing(directory, name, device, number, mode)
    if device.uid or device.gid:
        os.chown(name, device.uid or 0, device.gid or 0, dir_fd=directory, follow_symlinks=False)


def _take_existing(directory: int, name: str, device: Device, number: int, mode: int) -> None:
    # The directory may be a volume's, where others rename: what is looked at is what is changed.
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        about = os.fstat(fd)
        same_kind = stat.S_IFMT(about.st_mode) == TYPE_BITS[device.type]
        if not same_kind or (device.type != "p" and about.st_rdev != number):
            message = f"device node {device.path} exists already and is something else"
            raise RuntimeFailure("devices", message, path=device.path)
        os.chmod(f"/proc/self/fd/{fd}", mode)  # the host's /proc: the root is entered later
    finally:
        os.close(fd)


def make_links(root: Root) -> None:
    directory = root.make_directory("/dev")
    try:
        for target, name in LINKS:
            try:
                os.symlink(target, name, dir_fd=directory)
            except FileExistsError:
                if name == "ptmx":
                    # It must be that of our devpts: an image's own node would open the host's.
                    os.unlink(name, dir_fd=directory)
                    os.symlink(target, name, dir_fd=directory)
    except OSError as error:
        raise RuntimeFailure.from_os("devices", error, "error setting up dev symlinks") from error
    finally:
        os.close(directory)


class Masks:
    """Covers paths: files by one /dev/null, directories by one empty tmpfs, each cloned."""

    def __init__(self, null_tree: int) -> None:
        self._file = null_tree
        self._file_used = False
        self._directory = -1

    def cover(self, root: Root, path: str) -> None:
        try:
            target = root.open(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return
            raise RuntimeFailure.from_os("mask", error, f"can't mask path {path!r}") from error
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode):
                self._cover_directory(target)
            else:
                mounts.clone_onto(self._file, target, attached=self._file_used)
                self._file_used = True
        except OSError as error:
            raise RuntimeFailure.from_os("mask", error, f"can't mask path {path!r}") from error
        finally:
            os.close(target)

    def _cover_directory(self, target: int) -> None:
        if self._directory >= 0:
            mounts.clone_onto(self._directory, target, attached=True)
            return
        options = mountoptions.MountOptions(set_=MASK_ATTRIBUTES, data=("nr_inodes=2", "mode=755"))
        self._directory = mounts.new_filesystem(Operation("", "tmpfs", "tmpfs", options))
        mounts.clone_onto(self._directory, target, attached=False)


def make_readonly(root: Root, path: str) -> None:
    try:
        target = root.open(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        tree = syscalls.open_tree(target, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
        syscalls.mount_setattr(tree, set_=MOUNT_ATTR_RDONLY, recursive=True)
        syscalls.move_mount(tree, target)
        os.close(tree)
    except OSError as error:
        text = f"can't make {path!r} read-only"
        raise RuntimeFailure.from_os("readonly", error, text) from error
    finally:
        os.close(target)
