"""Library: the shim's container, run by the functions of runtime/ in this very process.

No program is executed on the way but the container's own. The pid in ``Started`` is a child of the
shim, so that its end is seen by its pidfd.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime import cgroups, container, spec
from runtime.cgroups import OOMWatch
from shim.container import Descriptors, Started, interface_counters, plug
from shim.request import StartRequest

DEFAULT_CGROUP_PARENT = "/longshore"


class NativeContainer:
    def __init__(self, container_id: str, request: StartRequest) -> None:
        self._id = container_id
        self._request = request
        parsed = spec.parse((request.bundle / "config.json").read_bytes())
        if not parsed.linux.cgroups_path:
            path = f"{request.cgroup_parent or DEFAULT_CGROUP_PARENT}/{container_id}"
            parsed = replace(parsed, linux=replace(parsed.linux, cgroups_path=path))
        self._spec = parsed
        self._cgroup = cgroups.manager(parsed.linux.cgroups_path)
        self._seccomp = Path(request.seccomp_bpf).read_bytes() if request.seccomp_bpf else None
        self._init: container.InitProcess | None = None
        self._pidfd = -1

    @property
    def process(self) -> spec.Process:
        return self._spec.process

    def create(self, stdio: Descriptors | None) -> Started:
        self._init = created = container.create(
            self._spec,
            container_id=self._id,
            bundle=self._request.bundle,
            state_root=self._request.state_root,
            stdio=container.Stdio(*stdio) if stdio else None,
            rootfs_mounts=self._request.rootfs_mounts,
            seccomp_bpf=self._seccomp,
            on_namespaces=self._plug,
        )
        self._pidfd = os.dup(created.pidfd)
        return Started(created.pid, created.pidfd, created.console)

    def start(self) -> None:
        container.start(self._created)

    def exec(self, process: spec.Process, stdio: Descriptors | None) -> Started:
        started = container.exec_process(
            self._created.state,
            process,
            stdio=container.Stdio(*stdio) if stdio else None,
            seccomp_bpf=self._seccomp,
        )
        return Started(started.pid, started.pidfd, started.console)

    def signal(self, number: int, *, everyone: bool) -> None:
        if not everyone:
            # Its exit may not have been collected yet; to the caller it is gone.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        elif number == signal.SIGKILL:
            self._cgroup.kill_all()
        else:
            self._cgroup.signal_all(number)

    def kill_all(self) -> None:
        self._cgroup.kill_all()

    def pause(self) -> None:
        self._cgroup.freeze()

    def resume(self) -> None:
        self._cgroup.thaw()

    def update(self, resources: spec.Resources) -> None:
        self._cgroup.apply(resources)

    def stats(self) -> dict[str, Any]:
        plugged = self._request.endpoints is not None
        interfaces = interface_counters(self._created.pid) if plugged else []
        return {"cgroup": self._cgroup.stats(), "interfaces": interfaces}

    def oom_kill_count(self) -> int:
        return self._cgroup.oom_kill_count()

    def watch_oom(self) -> OOMWatch | None:
        return self._cgroup.watch_oom()

    def delete(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._init is not None:
            self._init.close()
            container.delete(self._init.state, self._spec, force=True)

    @property
    def _created(self) -> container.InitProcess:
        assert self._init is not None, "the shim creates before it does anything else"
        return self._init

    def _plug(self, pid: int) -> None:
        if self._request.endpoints is None:
            return
        plug(pid, self._request.endpoints)
