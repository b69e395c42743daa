"""Library: a process that becomes a container's init by itself, with no runtime process beside it.

For the shim's newborn (shim/newborn.py), which was cloned into a PID namespace of its own before
its container was known. It makes the cgroup, opens what is the host's, and goes through the steps
of init.py. What takes a process outside of the namespaces all along (user namespaces, hooks, a
seccomp listener) is refused by ``fits``, and create.py does it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from runtime import create, init, namespaces, state, syscalls
from runtime.channel import Channel
from runtime.errors import RuntimeFailure
from runtime.preparation import Preparation
from runtime.spec import Mount, Spec

# Not the mount namespace: an idle one would hold mounts that the host has given up.
EARLY = frozenset({"network", "ipc", "uts"})


def fits(spec: Spec, rootfs_mounts: Sequence[Mount]) -> bool:
    kinds = {each.type: each.path for each in spec.linux.namespaces}
    hooks = spec.hooks
    return (
        all(kinds.get(kind) == "" for kind in ("pid", "mount"))
        and not kinds.keys() & {"user", "time"}
        and not (hooks.prestart or hooks.create_runtime or hooks.create_container)
        and not (hooks.start_container or hooks.poststart)
        and not (spec.linux.seccomp and spec.linux.seccomp.listener_path)
        and not any(_is_mapped(mount) for mount in (*rootfs_mounts, *spec.mounts))
    )


def _is_mapped(mount: Mount) -> bool:
    return bool(mount.uid_mappings) or bool({"idmap", "ridmap"} & set(mount.options))


def host_pid() -> int:
    """The process's own number as the host knows it, whose /proc it still sees."""
    return int(os.readlink("/proc/self"))


class Newborn:
    """What the process knows of itself. Its methods are to be called in their order."""

    def __init__(self) -> None:
        self._host: dict[str, int] = {}  # the host's namespaces that it has left

    def leave_host(self) -> None:
        """While nobody waits: most containers have these namespaces for themselves."""
        for kind in EARLY:
            name = namespaces.TYPES[kind][1]
            self._host[kind] = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(namespaces.flags(EARLY))
        namespaces.raise_loopback()

    def take(self, spec: Spec, container_id: str, bundle: Path) -> None:
        """Learn which container it is; then its own network namespace is there, if it has one."""
        self._preparation = Preparation(spec, container_id, bundle, None)
        self._preparation.join_namespaces()
        plan = self._preparation.namespaces
        if not self._host:
            syscalls.unshare(namespaces.flags(EARLY & plan.new))
            if "network" in plan.new:
                namespaces.raise_loopback()
        for kind, fd in self._host.items():
            if kind not in plan.private:
                syscalls.setns(fd, namespaces.TYPES[kind][0])
            os.close(fd)

    def become(
        self,
        channel: Channel,
        stdio: Sequence[int],
        *,
        state_root: Path,
        rootfs_mounts: Sequence[Mount],
        seccomp_bpf: bytes | None,
    ) -> NoReturn:
        """The container. The parent gets "made" with the cgroup's path, the root's mount and the
        OOM watch, then "ready", with the console where there is one, and is to send "start"; the
        channel closes when the program runs. After "made" it is the parent's to remove what was
        made.
        """
        preparation = self._preparation
        try:
            with create.one_exception("create"), ExitStack() as undo:
                directory = state.reserve(state_root, preparation.container_id)
                undo.callback(create.quietly, state.remove, directory)
                spec = preparation.spec
                manager = create.make_cgroup(spec, preparation.container_id, undo)
                preparation.stdio = (stdio[0], stdio[1], stdio[2]) if stdio else None
                preparation.open(manager, rootfs_mounts, seccomp_bpf, 0, exists=True)
                plan = preparation.plan(fifo=-1, no_pivot=False)
                create.write_oom_score("self", spec.process.oom_score_adj)
                create.save(plan, manager, host_pid(), directory, preparation.bundle)
                watch = manager.watch_oom()
                made = (plan.root_tree, watch.fd) if watch else (plan.root_tree,)
                poststop = bool(spec.hooks.poststop)
                channel.send("made", made, cgroup=manager.path, poststop=poststop)
                undo.pop_all()
        except RuntimeFailure as failure:
            channel.fail(failure)
            os._exit(1)
        init.run(plan, channel, made=EARLY)
