"""Job: into the container's view of its files, in a mount namespace of the job's own.

A running container's view is a copy of its mount namespace, without the kernel's file systems,
which ``docker cp`` does not show: what lies below them in the container's layers appears. For one
that does not run the mounts are made anew, private to the job. Nothing of it can be seen by
anybody else, and it goes when the job does.

Who only reads gets everything read-only. On a container that does not run a reader's overlay has
the container's upper directory as its top lower one and a throw-away upper, so that it never
conflicts with a start; a writer's is the real one, and lifecycle sees to it that there is only one
mount of it at a time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import Unavailable
from runtime import mounts, namespaces, rootfs, syscalls
from runtime.errors import RuntimeFailure
from runtime.mounts import Operation
from runtime.rootpath import Root
from runtime.spec import IDMapping, Mount
from runtime.syscalls import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_STRING,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLONE,
)
from shim.protocol import Message

UMOUNT_NOFOLLOW = 8  # linux/fs.h
# A job only moves bytes: it never executes, nor opens a device.
HARMLESS = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC

Enter = Callable[[Message, list[int]], Root]


@dataclass(frozen=True, slots=True)
class Stopped:
    """A container without processes, or an image: what has to be mounted."""

    scratch: str  # a directory of the engine's that the job may cover in its own namespace
    root: Mount
    mounts: tuple[Mount, ...]
    readonly: bool


def enter_to_read(message: Message, fds: list[int]) -> Root:
    if message["running"]:
        return _enter_running(message, fds, HARMLESS | MOUNT_ATTR_RDONLY)
    return _enter_stopped(_stopped(message), write=False)


def enter_to_write(message: Message, fds: list[int]) -> Root:
    if message["running"]:
        return _enter_running(message, fds, HARMLESS)
    return _enter_stopped(_stopped(message), write=True)


def enter_layers(message: Message, fds: list[int]) -> Root:
    """The overlay alone, without anything that is mounted in it."""
    if not message["running"]:
        return _enter_stopped(replace(_stopped(message), mounts=()), write=False)
    _join(message, fds.pop())
    tree = syscalls.open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE)
    rootfs.attach_root(tree, "/")
    return _step_into(tree, HARMLESS | MOUNT_ATTR_RDONLY)


def enter_upper(message: Message, fds: list[int]) -> Root:
    """Nowhere: the first descriptor is the directory to look at."""
    return Root(fds[0])


def _stopped(message: Message) -> Stopped:
    return Stopped(
        scratch=str(message["scratch"]),
        root=_mount(message["root"]),
        mounts=tuple(_mount(item) for item in message["mounts"]),
        readonly=bool(message["readonly"]),
    )


def _mount(item: dict[str, Any]) -> Mount:
    return Mount(
        destination=str(item["destination"]),
        type=str(item["type"]),
        source=str(item["source"]),
        options=tuple(str(option) for option in item["options"]),
        uid_mappings=_mappings(item.get("uidMappings", ())),
        gid_mappings=_mappings(item.get("gidMappings", ())),
    )


def _mappings(items: Iterable[dict[str, Any]]) -> tuple[IDMapping, ...]:
    return tuple(
        IDMapping(int(item["containerID"]), int(item["hostID"]), int(item["size"]))
        for item in items
    )


def _join(message: Message, pidfd: int) -> None:
    """Ids are to be the container's, so its user namespace is joined where it has one."""
    users = CLONE_NEWUSER if message.get("user_namespace") else 0
    try:
        syscalls.setns(pidfd, CLONE_NEWNS | users)
    except ProcessLookupError as error:
        raise Unavailable("the container has just ended") from error
    os.close(pidfd)
    if users:
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.unshare(CLONE_NEWNS)
    _make_private()


def _make_private() -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.mount_setattr(root, propagation=syscalls.MS_PRIVATE, recursive=True)
    finally:
        os.close(root)


def _enter_running(message: Message, fds: list[int], attributes: int) -> Root:
    _join(message, fds.pop())
    for name in message["hidden"]:
        try:
            syscalls.umount(str(name), syscalls.MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # the container has done it itself
                raise
    return _finish(attributes)


def _enter_stopped(view: Stopped, *, write: bool) -> Root:
    syscalls.unshare(CLONE_NEWNS)
    _make_private()
    # All that is named by a path of the host is opened before the first mount covers any.
    operations = [_plan(item) for item in view.mounts]
    # A root that is no overlay is a copy of the container's own: there is nothing to throw away.
    if write or view.root.type != "overlay":
        tree = mounts.plan(view.root, "/", _user_namespace).tree
    else:
        tree = _throw_away(view.root, view.scratch)
    rootfs.attach_root(tree, view.scratch)
    _attach_all(operations, Root(tree))
    attributes = HARMLESS if write else HARMLESS | MOUNT_ATTR_RDONLY
    if view.readonly:
        syscalls.mount_setattr(tree, set_=MOUNT_ATTR_RDONLY)
    return _step_into(tree, attributes)


def _plan(mount: Mount) -> Operation:
    try:
        return mounts.plan(mount, "/", _user_namespace)
    except RuntimeFailure as failure:
        if not mount.uid_mappings or failure.errno != errno.EINVAL:
            raise
    # Its file system cannot map ids: then they are the host's.
    return mounts.plan(replace(mount, uid_mappings=(), gid_mappings=()), "/", _user_namespace)


def _user_namespace(mount: Mount) -> int:
    return _mapped(mount.uid_mappings, mount.gid_mappings)


@cache
def _mapped(uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> int:
    """Made once for all mounts; it goes with the process."""
    return namespaces.mapped_userns(uids, gids)


def _attach_all(operations: Sequence[Operation], root: Root) -> None:
    for operation in operations:
        mounts.attach(operation, root)


def _throw_away(root: Mount, scratch: str) -> int:
    """The overlay ``root`` with its upper directory as a lower one, below an empty one in memory.

    The empty one is there for the mount points that the layers lack.
    """
    memory = in_memory()
    target = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(memory, target)
    os.close(target)
    os.close(memory)
    new = (f"upperdir={scratch}/upper", f"workdir={scratch}/work")
    lower, rest, top = [], [], ""
    for option in root.options:
        key, _, value = option.partition("=")
        if key == "upperdir":
            top = value
        elif key.startswith("lowerdir"):
            lower.append(option)
        elif key != "workdir":
            rest.append(option)
    _make_like(Path(scratch) / "upper", top or lower[0].partition("=")[2].partition(":")[0])
    (Path(scratch) / "work").mkdir()
    if top:
        lower = _below(top, lower)
    options = (*lower, *new, *rest)
    return mounts.plan(
        Mount(destination="/", type="overlay", source="overlay", options=options),
        "/",
        _user_namespace,
    ).tree


def in_memory() -> int:
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig(context, FSCONFIG_SET_STRING, "mode", "700")
        syscalls.fsconfig(context, FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, HARMLESS)
    finally:
        os.close(context)


def _make_like(new: Path, model: str) -> None:
    """The root of an overlay has its upper directory's attributes."""
    about = os.stat(model)
    new.mkdir()
    os.chown(new, about.st_uid, about.st_gid)
    new.chmod(about.st_mode & 0o7777)
    os.utime(new, ns=(about.st_atime_ns, about.st_mtime_ns))


def _below(top: str, lower: list[str]) -> list[str]:
    key, _, value = lower[0].partition("=")
    if key == "lowerdir+":
        return [f"lowerdir+={top}", *lower]
    return [f"lowerdir={top}:{value}"]


def _step_into(tree: int, attributes: int) -> Root:
    rootfs.pivot(tree)
    os.close(tree)
    return _finish(attributes)


def _finish(attributes: int) -> Root:
    os.chdir("/")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.mount_setattr(root, set_=attributes, recursive=True)
    return Root(root)
