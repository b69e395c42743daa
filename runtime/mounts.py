"""Library: mounts, first as detached trees and then attached to what a descriptor stands for.

What needs the host (bind sources, overlay layers, id mappings) is opened by the parent before the
clone, as a detached tree that belongs to no mount namespace and goes away with its descriptor.
What needs the container's namespaces (proc, sysfs, mqueue, cgroup, tmpfs) is made by its child
side. All are attached by move_mount onto a descriptor that ``Root`` resolved, so that no path of
the container is resolved twice.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass

from runtime import idmaps, mountoptions, namespaces, oldoverlay, syscalls
from runtime.copyup import copy_tree
from runtime.errors import RuntimeFailure, reason
from runtime.mountoptions import MountOptions
from runtime.rootpath import Root, components
from runtime.spec import Mount
from runtime.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    OPEN_TREE_CLONE,
)

# File systems that read paths of the host when they are created.
HOST_FILESYSTEMS = frozenset({"overlay"})
# What lxcfs and the like put over single files of /proc (as runc's list).
PROC_FILES = frozenset(
    f"proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)
VALUE_LIMIT = 255  # of a string given to fsconfig(2)

# Another process's root, and the path in it.
_PROCESS_ROOT = re.compile(r"/proc/([0-9]+)/root(/.*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of "mounts": ``tree`` is the detached tree where the parent has made it."""

    destination: str
    source: str
    filesystem: str  # "bind" for bind mounts
    options: MountOptions
    tree: int = -1

    def describe(self) -> str:
        return f"{self.filesystem} {self.source} on {self.destination}"


def plan(mount: Mount, bundle: str, userns_fd: Callable[[Mount], int]) -> Operation:
    """Parent: parse the options and open what only the host can reach."""
    options = mountoptions.parse(mount.options)
    if mount.type == "bind" or options.bind:
        source = os.path.join(bundle, mount.source)
        tree = -1
        try:
            tree = _open_source(source, options, mount, userns_fd)
        except OSError as error:
            raise failure(mount.source, mount.destination, error) from error
        return Operation(mount.destination, mount.source, "bind", options, tree)
    operation = Operation(mount.destination, mount.source or mount.type, mount.type, options)
    if mount.type in HOST_FILESYSTEMS:
        try:
            tree = _new_mapped(operation, mount, userns_fd)
        except OSError as error:
            raise failure(operation.source, mount.destination, error) from error
        return Operation(mount.destination, operation.source, mount.type, options, tree)
    return operation


def _new_mapped(operation: Operation, mount: Mount, userns_fd: Callable[[Mount], int]) -> int:
    if not mount.uid_mappings:
        return new_filesystem(operation)
    owner = idmaps.owner(mount.uid_mappings, mount.gid_mappings)
    with idmaps.mapped_layers(operation.options.data, userns_fd(mount), owner):
        return new_filesystem(operation)


def _open_source(
    source: str, options: MountOptions, mount: Mount, userns_fd: Callable[[Mount], int]
) -> int:
    recursive = AT_RECURSIVE if options.bind_recursive else 0
    tree = _clone(source, OPEN_TREE_CLONE | recursive)
    try:
        if not any(value == syscalls.MS_SHARED for value, _ in options.propagation):
            # A clone of a shared mount is its peer: what is mounted in the container would appear
            # on the host.
            syscalls.mount_setattr(tree, propagation=syscalls.MS_SLAVE, recursive=True)
        if options.idmap or mount.uid_mappings:
            fd = userns_fd(mount)
            syscalls.mount_setattr(
                tree,
                set_=syscalls.MOUNT_ATTR_IDMAP,
                userns_fd=fd,
                recursive=options.idmap_recursive,
            )
        set_attributes(tree, options)
    except OSError:
        os.close(tree)
        raise
    return tree


def set_attributes(tree: int, options: MountOptions) -> None:
    for set_, clear, recursive in (
        (options.set_, options.clear, False),
        (options.recursive_set, options.recursive_clear, True),
    ):
        if set_ or clear:
            syscalls.mount_setattr(tree, set_=set_, clear=clear, recursive=recursive)
    for propagation, recursive in options.propagation:
        syscalls.mount_setattr(tree, propagation=propagation, recursive=recursive)


def new_filesystem(operation: Operation, extra: tuple[str, ...] = ()) -> int:
    """A detached mount of a file system of its own."""
    options = operation.options
    data = (*options.data, *extra)
    if operation.filesystem == "overlay" and oldoverlay.wanted():
        tree = oldoverlay.make(operation.source, data)
        plain = options.set_, options.clear
    else:
        tree = _create(operation, data)
        plain = 0, 0
    recursive = options.recursive_set, options.recursive_clear
    try:
        for each, (set_, clear) in ((False, plain), (True, recursive)):
            if set_ or clear:
                syscalls.mount_setattr(tree, set_=set_, clear=clear, recursive=each)
    except OSError:
        os.close(tree)
        raise
    return tree


def _create(operation: Operation, data: tuple[str, ...]) -> int:
    context = syscalls.fsopen(operation.filesystem)
    try:
        syscalls.fsconfig(context, FSCONFIG_SET_STRING, "source", operation.source)
        for option in data:
            _configure(context, operation.filesystem, option)
        syscalls.fsconfig(context, FSCONFIG_CMD_CREATE)
        # "ro" is the mount's property here, so that one superblock can be mounted both ways.
        return syscalls.fsmount(context, operation.options.set_)
    except OSError as error:
        detail = _kernel_message(context)
        if detail:
            raise OSError(error.errno, detail) from error
        raise
    finally:
        os.close(context)


def _configure(context: int, filesystem: str, option: str) -> None:
    name, equals, value = option.partition("=")
    if not equals:
        syscalls.fsconfig(context, FSCONFIG_SET_FLAG, name)
    elif filesystem == "overlay" and name == "lowerdir":
        _lower_directories(context, value)
    else:
        _set_string(context, name, value)


def _clone(source: str, flags: int) -> int:
    """The kernel clones mounts of the caller's own mount namespace only.

    A source such as /proc/<pid>/root/dev/shm, with which containers share an IPC namespace, is
    opened inside the namespace that it leads to.
    """
    found = _PROCESS_ROOT.match(source)
    if found is None:
        return syscalls.open_tree(AT_FDCWD, source, flags)
    other = os.open(f"/proc/{found[1]}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with namespaces.other_mounts(lambda: syscalls.setns(other, syscalls.CLONE_NEWNS)):
            return syscalls.open_tree(AT_FDCWD, found[2], flags)
    finally:
        os.close(other)


def _lower_directories(context: int, value: str) -> None:
    """One call a layer: the whole list may be longer than a value."""
    for layer in value.split(":"):
        _set_string(context, "lowerdir+", layer)


def _set_string(context: int, name: str, value: str) -> None:
    if len(os.fsencode(value)) <= VALUE_LIMIT or not value.startswith("/"):
        syscalls.fsconfig(context, FSCONFIG_SET_STRING, name, value)
        return
    fd = os.open(value, os.O_PATH | os.O_CLOEXEC)  # a long path by a short name
    try:
        syscalls.fsconfig(context, FSCONFIG_SET_STRING, name, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _kernel_message(context: int) -> str:
    """What the file system says about the failure: "e tmpfs: Bad value for 'size'"."""
    messages = []
    try:
        while True:
            line = os.read(context, 1024).decode(errors="replace").strip()
            if line.startswith("e "):
                messages.append(line[2:])
    except OSError:
        pass
    return "; ".join(messages)


def failure(source: str, destination: str, error: OSError) -> RuntimeFailure:
    code = error.errno or 0
    text = reason(code)
    if error.strerror and ": " in error.strerror and not error.strerror.endswith(os.strerror(code)):
        text += f" ({error.strerror})"
    if code == errno.ENOTDIR:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the"
            " specified host path exists and is the expected type"
        )
    message = f'error mounting "{source}" to rootfs at "{destination}": {text}'
    return RuntimeFailure("mount", message, errno=code, path=destination)


def attach(operation: Operation, root: Root) -> None:
    """Child: make the tree, unless the parent has, and put it where it belongs."""
    try:
        _attach(operation, root)
    except OSError as error:
        raise failure(operation.source, operation.destination, error) from error


def _attach(operation: Operation, root: Root) -> None:
    tree = operation.tree
    try:
        if tree < 0 and operation.filesystem not in ("proc", "sysfs", "tmpfs"):
            tree = new_filesystem(operation)
        directory = tree < 0 or stat.S_ISDIR(os.fstat(tree).st_mode)
        target = open_target(operation, root, tree, directory=directory)
        try:
            if tree < 0:
                tree = new_filesystem(operation, _inherited_mode(operation, target))
            if operation.options.copy_up:
                copy_tree(root.open(operation.destination, os.O_RDONLY | os.O_DIRECTORY), tree)
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)
        if operation.filesystem != "bind":
            for propagation, recursive in operation.options.propagation:
                syscalls.mount_setattr(tree, propagation=propagation, recursive=recursive)
    finally:
        if tree >= 0:
            os.close(tree)


def _inherited_mode(operation: Operation, target: int) -> tuple[str, ...]:
    """A tmpfs looks like the directory that it covers, unless the options say otherwise."""
    if operation.filesystem != "tmpfs":
        return ()
    if any(option.startswith("mode=") for option in operation.options.data):
        return ()
    return (f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}",)


def open_target(operation: Operation, root: Root, tree: int, *, directory: bool) -> int:
    names = components(operation.destination)
    where = "/" + "/".join(names)
    if operation.filesystem in ("proc", "sysfs"):
        # A link here would leave the masks and the LSM's files on something else (CVE-2019-19921).
        try:
            return root.make_directory(where, no_symlinks=True)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            text = f'filesystem "{operation.filesystem}" must be mounted on ordinary directory'
            raise RuntimeFailure("mount", text, errno=error.errno, path=where) from error
    _check_proc(where, names, tree)
    target = root.make_directory(where) if directory else root.make_file(where)
    if not directory and stat.S_ISDIR(os.fstat(target).st_mode):
        os.close(target)
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), where)
    inside_proc = syscalls.fstatfs_type(target) == syscalls.PROC_SUPER_MAGIC
    if inside_proc and "/".join(names) not in (PROC_FILES | {"proc"}):
        os.close(target)
        raise _inside_proc(where)
    return target


def _check_proc(where: str, names: list[str], tree: int) -> None:
    if names[:1] != ["proc"] or "/".join(names) in PROC_FILES:
        return
    if len(names) > 1:
        raise _inside_proc(where)
    if tree < 0 or syscalls.fstatfs_type(tree) != syscalls.PROC_SUPER_MAGIC:
        raise RuntimeFailure("mount", f'"{where}" cannot be mounted because it is not of type proc')


def _inside_proc(where: str) -> RuntimeFailure:
    return RuntimeFailure("mount", f'"{where}" cannot be mounted because it is inside /proc')


def clone_onto(tree: int, target: int, *, attached: bool) -> int:
    """Attach ``tree`` itself the first time and a clone of it later; its descriptor for the next.

    Cloning a detached tree is only possible since Linux 6.15.
    """
    source = tree
    if attached:
        source = syscalls.open_tree(tree, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)
    syscalls.move_mount(source, target)
    if attached:
        os.close(source)
    return tree
