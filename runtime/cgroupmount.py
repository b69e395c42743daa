"""Library: the mounts of type "cgroup" in a container, for v1, hybrid and v2.

v1: a read-only tmpfs with one directory for each hierarchy, and links for the names of controllers
that are mounted together. With a cgroup namespace each is a mount of its own, whose root is the
container's cgroup; without, the parent clones the container's directory from the host's mount.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from runtime import mounts, syscalls
from runtime.cgroups.detect import Mode, detect, hierarchies
from runtime.errors import RuntimeFailure
from runtime.mountoptions import MountOptions, parse
from runtime.mounts import Operation
from runtime.rootpath import Root
from runtime.spec import Mount
from runtime.syscalls import AT_FDCWD, OPEN_TREE_CLONE

TMPFS_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
)


@dataclass(frozen=True, slots=True)
class CgroupV1:
    destination: str
    options: MountOptions
    # (directory's name, controllers, cloned tree or -1)
    entries: tuple[tuple[str, tuple[str, ...], int], ...]

    @property
    def trees(self) -> list[int]:
        return [tree for _, _, tree in self.entries if tree >= 0]


def plan(mount: Mount, cgroup_path: str, *, namespaced: bool) -> CgroupV1 | Operation:
    options = dataclasses.replace(parse(mount.options), data=())
    if mount.type == "cgroup2" or detect() is Mode.V2:
        root = hierarchies().v2
        if root is None:
            raise RuntimeFailure("mount", "cgroup v2 is not mounted on the host")
        tree = -1 if namespaced else _clone(root + cgroup_path, options)
        kind = "cgroup2" if namespaced else "bind"
        return Operation(mount.destination, "cgroup", kind, options, tree)
    entries: list[tuple[str, tuple[str, ...], int]] = []
    for each in hierarchies().v1:
        tree = -1 if namespaced else _clone(each.mountpoint + cgroup_path, options)
        entries.append((os.path.basename(each.mountpoint), each.controllers, tree))
    return CgroupV1(mount.destination, options, tuple(entries))


def _clone(path: str, options: MountOptions) -> int:
    try:
        tree = syscalls.open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
        syscalls.mount_setattr(tree, propagation=syscalls.MS_SLAVE)
        mounts.set_attributes(tree, options)
    except OSError as error:
        raise mounts.failure("cgroup", path, error) from error
    return tree


def attach(plan: CgroupV1, root: Root) -> None:
    """Child."""
    cover = Operation(
        plan.destination,
        "tmpfs",
        "tmpfs",
        MountOptions(set_=TMPFS_ATTRIBUTES, data=("mode=755",)),
    )
    try:
        tree = mounts.new_filesystem(cover)
        target = root.make_directory(plan.destination)
        syscalls.move_mount(tree, target)
        os.close(target)
        for name, controllers, cloned in plan.entries:
            _attach_hierarchy(tree, name, controllers, cloned, plan.options)
        if plan.options.readonly:
            syscalls.mount_setattr(tree, set_=syscalls.MOUNT_ATTR_RDONLY)
        os.close(tree)
    except OSError as error:
        raise mounts.failure("cgroup", plan.destination, error) from error


def _attach_hierarchy(
    cover: int, name: str, controllers: tuple[str, ...], tree: int, options: MountOptions
) -> None:
    os.mkdir(name, 0o555, dir_fd=cover)
    if tree < 0:
        named = ("none",) if controllers[0].startswith("name=") else ()
        data = dataclasses.replace(options, data=(*named, *controllers))
        tree = mounts.new_filesystem(Operation(name, "cgroup", "cgroup", data))
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=cover)
    syscalls.move_mount(tree, target)
    os.close(target)
    os.close(tree)
    for controller in controllers:
        if controller != name and not controller.startswith("name="):
            os.symlink(name, controller, dir_fd=cover)
