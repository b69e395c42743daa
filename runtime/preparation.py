"""Library: what a container's child side inherits, opened by the parent before the clone.

Used by create(). Everything here may fail without harm: nothing exists yet but descriptors, which
``close`` gives back, in the parent as soon as the clone is done.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from runtime import cgroupmount, init, mounts, namespaces, procfs, program, rootfs, validate
from runtime.cgroupmount import CgroupV1
from runtime.cgroups import Manager
from runtime.errors import RuntimeFailure
from runtime.mounts import Operation
from runtime.rootpath import components
from runtime.spec import Device, IDMapping, Mount, Spec

Mappings = tuple[IDMapping, ...]


class Preparation:
    def __init__(
        self, spec: Spec, container_id: str, bundle: Path, stdio: tuple[int, int, int] | None
    ) -> None:
        self.spec = spec
        self.container_id = container_id
        self.bundle = str(bundle)
        self.stdio = stdio
        self.keep: list[int] = []
        # By their mappings: all mounts of a container have the same, mostly.
        self._user_namespaces: dict[tuple[Mappings, Mappings], int] = {}
        self._resources = ExitStack()
        self.close = self._resources.close

    def join_namespaces(self) -> None:
        """First, as it tells whether the config makes sense at all."""
        opened: list[int] = []
        try:
            self.namespaces = namespaces.plan(self.spec.linux.namespaces, opened)
        finally:
            for fd in opened:
                self.own(fd)
        validate.check(self.spec, self.namespaces)

    def own(self, fd: int) -> int:
        self._resources.callback(os.close, fd)
        self.keep.append(fd)
        return fd

    def open(
        self,
        manager: Manager,
        rootfs_mounts: Sequence[Mount],
        seccomp_bpf: bytes | None,
        preserve_fds: int,
        *,
        exists: bool = False,
    ) -> None:
        """``exists`` says that init does, and so enters its cgroup by itself."""
        spec = self.spec
        self.program = program.prepare(
            spec.process, seccomp_bpf, spec.linux.seccomp, preserve_fds=preserve_fds
        )
        self.rootfs = os.path.normpath(os.path.join(self.bundle, spec.root.path))
        roots = [self._operation(mount, manager) for mount in rootfs_mounts]
        made = [each for each in roots if isinstance(each, Operation)]
        self.root_tree = rootfs.open_tree(self.rootfs, made)
        if not made or made[0].tree != self.root_tree:
            self.own(self.root_tree)
            first = 0
        else:
            first = 1
        self.operations = tuple(roots[first:]) + tuple(
            self._operation(mount, manager) for mount in spec.mounts
        )
        self.nodes = self._devices()
        self.null_tree = -1
        if spec.linux.masked_paths:
            self.null_tree = self.own(rootfs.host_device("/dev/null", os.makedev(1, 3)))
        self.procfs = -1
        if spec.linux.sysctl or self.program.lsm:
            self.procfs = self.own(procfs.detached())
        self.cgroup_clone_fd = None if exists else manager.clone_fd()
        if self.cgroup_clone_fd is not None:
            self._resources.callback(os.close, self.cgroup_clone_fd)
        self.cgroup_fds = [self.own(fd) for fd in self._join_fds(manager)]

    def _join_fds(self, manager: Manager) -> list[int]:
        return manager.join_fds() if self.cgroup_clone_fd is None else []

    def _operation(self, mount: Mount, manager: Manager) -> Operation | CgroupV1:
        if mount.type in ("cgroup", "cgroup2") and "bind" not in mount.options:
            namespaced = "cgroup" in self.namespaces.new
            planned = cgroupmount.plan(mount, manager.path, namespaced=namespaced)
        else:
            try:
                planned = mounts.plan(mount, self.bundle, self._userns_for)
            except RuntimeFailure as failure:
                failure.in_init()
                raise
        trees = planned.trees if isinstance(planned, CgroupV1) else [planned.tree]
        for tree in trees:
            if tree >= 0:
                self.own(tree)
        return planned

    def _userns_for(self, mount: Mount) -> int:
        linux = self.spec.linux
        uids = mount.uid_mappings or linux.uid_mappings
        gids = mount.gid_mappings or linux.gid_mappings
        if not (uids and gids):
            raise RuntimeFailure("mount", f"idmap mount {mount.destination} has no mappings")
        found = self._user_namespaces.get((uids, gids))
        if found is None:
            found = namespaces.mapped_userns(uids, gids)
            self._resources.callback(os.close, found)
            self._user_namespaces[uids, gids] = found
        return found

    def _devices(self) -> tuple[rootfs.Node, ...]:
        for mount in self.spec.mounts:
            bind = mount.type == "bind" or {"bind", "rbind"} & set(mount.options)
            if components(mount.destination) == ["dev"] and bind:
                return ()
        listed = {"/" + "/".join(components(each.path)): each for each in rootfs.DEFAULT_DEVICES}
        for device in self.spec.linux.devices:
            listed["/" + "/".join(components(device.path))] = device
        # pts/ptmx is devpts's own; a node in its place would lead to the host's.
        listed.pop("/dev/ptmx", None)
        return tuple(self._node(device) for device in listed.values())

    def _node(self, device: Device) -> rootfs.Node:
        if "user" not in self.namespaces.private or device.type == "p":
            return rootfs.Node(device)
        number = os.makedev(device.major, device.minor)
        kind = stat.S_IFBLK if device.type == "b" else stat.S_IFCHR
        return rootfs.Node(device, self.own(rootfs.host_device(device.path, number, kind)))

    def plan(self, *, fifo: int, no_pivot: bool) -> init.Plan:
        return init.Plan(
            spec=self.spec,
            container_id=self.container_id,
            bundle=self.bundle,
            program=self.program,
            namespaces=self.namespaces,
            rootfs=self.rootfs,
            root_tree=self.root_tree,
            operations=self.operations,
            nodes=self.nodes,
            null_tree=self.null_tree,
            cgroup_fds=self.cgroup_fds,
            cgroup_clone_fd=self.cgroup_clone_fd,
            stdio=self.stdio,
            procfs=self.procfs,
            fifo=fifo,
            no_pivot=no_pivot,
            keep=self.keep,
        )
