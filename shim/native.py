"""Library: the shim's container, run by the functions of runtime/.

No program is executed on the way but the container's own. ``NativeContainer`` runs in the shim,
and has a newborn become the container (newborn.py). Where that does not fit, ``Creation`` creates
it in a starter (starter.py), whose child the pid in ``Started`` is until it ends: then the shim's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from runtime import cgroups, container, spec
from runtime import state as states
from runtime.cgroups import OOMWatch
from runtime.state import State
from shim import configuration
from shim import request as requests
from shim.container import Descriptors, Started, interface_counters, plug
from shim.newborn import Made, Newborn
from shim.protocol import Message
from shim.starter import Starter, StarterDied


class Creation:
    """Creates the container and starts it: what the starter calls."""

    def __init__(self, container_id: str) -> None:
        self._id = container_id

    def prepare(self, message: Message) -> Message:
        self._request = requests.creation(message)
        self._spec = configuration.read(self._id, self._request)
        return {"terminal": self._spec.process.terminal}

    def create(self, stdio: list[int]) -> tuple[Message, list[int]]:
        request = self._request
        self._init = created = container.create(
            self._spec,
            container_id=self._id,
            bundle=request.bundle,
            state_root=request.state_root,
            stdio=container.Stdio(*stdio) if stdio else None,
            rootfs_mounts=request.rootfs_mounts,
            seccomp_bpf=configuration.seccomp(request.seccomp_bpf),
            on_namespaces=self._while_it_mounts,
        )
        watch = self._oom_watch
        fds = [created.pidfd, created.console, watch.fd if watch else None]
        given = [fd is not None for fd in fds]
        poststop = bool(self._spec.hooks.poststop)
        answer = {
            "pid": created.pid,
            "cgroup": created.state.cgroup_path,
            "given": given,
            "poststop": poststop,
        }
        return answer, [fd for fd in fds if fd is not None]

    def start(self) -> None:
        container.start(self._init)

    def _while_it_mounts(self, pid: int) -> None:
        if self._request.endpoints is not None:
            plug(pid, self._request.endpoints, self._request.broker)
        self._oom_watch = cgroups.manager(self._spec.linux.cgroups_path).watch_oom()


class NativeContainer:
    def __init__(
        self, container_id: str, exec_root: Path, message: Message, newborn: Newborn
    ) -> None:
        self._id = container_id
        self._exec_root = exec_root
        self._message = message
        self._newborn = newborn
        self._starter: Starter | None = None  # where the newborn does not fit
        self._saved: State | None = None  # read when it is wanted
        self._pid = 0
        self._cgroup_path = ""
        self._spec: spec.Spec | None = None  # only where its poststop hooks will be wanted
        self._pidfd = -1
        # The last unmount of an overlay writes out the file system below it, for which the exit of
        # a container's init would wait: so the shim has a hand on it until the exit is reported.
        self._root_fd = -1
        self._oom_watch: OOMWatch | None = None
        newborn.request(container_id, requests.creation_fields(message))

    def terminal(self) -> bool:
        answer = self._newborn.prepared()
        if not answer["fits"]:
            self._newborn.close()
            self._starter = Starter(self._id, self._exec_root, Creation(self._id))
            self._starter.request(self._message)
            answer = self._starter.prepared()
        return bool(answer["terminal"])

    def create(self, stdio: Descriptors | None) -> Started:
        if self._starter is not None:
            return self._create_beside(self._starter, stdio)
        newborn = self._newborn
        try:
            made = newborn.become(stdio or ())
        except BaseException:
            newborn.kill()
            if not newborn.undone:
                self._remove_remains()
            raise
        self._adopt(newborn.pid, made)
        self._pidfd = newborn.give_pidfd()
        return Started(newborn.pid, os.dup(self._pidfd), made.console)

    def _adopt(self, pid: int, made: Made) -> None:
        self._pid, self._cgroup_path = pid, made.cgroup
        if made.poststop:
            self._spec = configuration.read(self._id, requests.creation(self._message))
        if made.root is not None:
            self._root_fd = made.root
        if made.oom is not None:
            self._oom_watch = OOMWatch(made.oom)

    def _create_beside(self, starter: Starter, stdio: Descriptors | None) -> Started:
        try:
            created, fds = starter.create(stdio or ())
        except StarterDied:
            self._remove_remains()
            raise
        pidfd, console, oom = (fds.pop(0) if given else None for given in created["given"])
        assert pidfd is not None
        made = Made(str(created["cgroup"]), bool(created["poststop"]), None, oom, console)
        self._adopt(int(created["pid"]), made)
        self._pidfd = os.dup(pidfd)
        return Started(self._pid, pidfd, console)

    def start(self) -> None:
        if self._starter is not None:
            self._starter.start()
        else:
            self._newborn.start()

    def exec(self, process: spec.Process, stdio: Descriptors | None) -> Started:
        started = container.exec_process(
            self._state(),
            process,
            stdio=container.Stdio(*stdio) if stdio else None,
            seccomp_bpf=configuration.seccomp(self._message["seccomp_bpf"]),
        )
        return Started(started.pid, started.pidfd, started.console)

    def signal(self, number: int, *, everyone: bool) -> None:
        if not everyone:
            # Its exit may not have been collected yet; to the caller it is gone.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        elif number == signal.SIGKILL:
            self._cgroup().kill_all()
        else:
            self._cgroup().signal_all(number)

    def kill_all(self) -> None:
        self._cgroup().kill_all()

    def pause(self) -> None:
        self._cgroup().freeze()

    def resume(self) -> None:
        self._cgroup().thaw()

    def update(self, resources: spec.Resources) -> None:
        self._cgroup().apply(resources)

    def stats(self) -> dict[str, Any]:
        plugged = self._message["network"] is not None
        interfaces = interface_counters(self._pid) if plugged else []
        return {"cgroup": self._cgroup().stats(), "interfaces": interfaces}

    def oom_kill_count(self) -> int:
        return self._cgroup().oom_kill_count()

    def watch_oom(self) -> OOMWatch | None:
        return self._oom_watch

    def delete(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self._newborn.close()
        if self._starter is not None:
            self._starter.close()
        if self._root_fd >= 0:  # poststop hooks may want to unmount what is below it
            os.close(self._root_fd)
            self._root_fd = -1
        if self._pid:
            container.delete(self._state(), self._spec, force=True)

    def _remove_remains(self) -> None:
        """Whoever was creating it was ended, with it a container that had not begun to run."""
        request = requests.creation(self._message)
        cgroup = cgroups.manager(configuration.read(self._id, request).linux.cgroups_path)
        if cgroup.exists():
            cgroup.kill_all()
            cgroup.delete()
        states.remove(states.directory(request.state_root, self._id))

    def _cgroup(self) -> cgroups.Manager:
        """Made when it is wanted, since most containers run without."""
        return cgroups.manager(self._cgroup_path)

    def _state(self) -> State:
        """As it was written at the start; nothing of it changes."""
        if self._saved is None:
            state_root = Path(requests.text(self._message, "state_root"))
            self._saved = container.load(state_root, self._id)
        return self._saved
