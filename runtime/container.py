"""Library: what can be done to a container; the functions that the shim and the CLI call.

create, start and exec_process are in files of their own; here are they by name, and the rest,
which acts on a container by its State.
"""

from __future__ import annotations

import enum
import os
import signal as signals
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runtime import hooks
from runtime import state as states
from runtime.cgroups import CgroupError, Stats, with_default_devices
from runtime.cgroups import manager as cgroup_manager
from runtime.create import InitProcess, Stdio, create, start, start_detached
from runtime.errors import RuntimeFailure, WrongStatus
from runtime.exec import ExecProcess, exec_process
from runtime.spec import Resources, Spec
from runtime.state import FIFO, State, load

__all__ = [
    "ExecProcess",
    "InitProcess",
    "State",
    "Status",
    "Stdio",
    "create",
    "delete",
    "exec_process",
    "kill",
    "list_ids",
    "load",
    "pause",
    "pids",
    "resume",
    "start",
    "start_detached",
    "stats",
    "status",
    "update",
]

FORCE_SECONDS = 10.0
T = TypeVar("T")


class Status(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


def status(saved: State) -> Status:
    if not states.alive(saved):
        return Status.STOPPED
    if _frozen(saved):
        return Status.PAUSED
    return Status.CREATED if os.path.exists(Path(saved.directory) / FIFO) else Status.RUNNING


def _frozen(saved: State) -> bool:
    try:
        return cgroup_manager(saved.cgroup_path).frozen()
    except (OSError, CgroupError):
        return False  # no freezer here, so nothing can be paused


def kill(saved: State, signal: int, *, all_processes: bool = False) -> None:
    """A signal to init, or to every process of the container, also when init is gone."""
    if all_processes:
        manager = cgroup_manager(saved.cgroup_path)
        if signal == signals.SIGKILL:
            manager.kill_all()
        else:
            manager.signal_all(signal)
        return
    fd = states.init_pidfd(saved)
    try:
        signals.pidfd_send_signal(fd, signal)
    except ProcessLookupError as error:
        raise WrongStatus("kill", "container not running") from error
    finally:
        os.close(fd)
    # A frozen process dies of nothing; on v1 not even of SIGKILL.
    if signal == signals.SIGKILL and _frozen(saved):
        cgroup_manager(saved.cgroup_path).thaw()


def pause(saved: State) -> None:
    if status(saved) not in (Status.RUNNING, Status.CREATED):
        raise WrongStatus("pause", "container not running or created")
    _cgroup("pause", lambda: cgroup_manager(saved.cgroup_path).freeze())


def resume(saved: State) -> None:
    if status(saved) is not Status.PAUSED:
        raise WrongStatus("resume", "container not paused")
    _cgroup("resume", lambda: cgroup_manager(saved.cgroup_path).thaw())


def update(saved: State, resources: Resources) -> None:
    if resources.devices:  # they are set as a whole, and a container always has the default ones
        resources = with_default_devices(resources)
    _cgroup("update", lambda: cgroup_manager(saved.cgroup_path).apply(resources))


def stats(saved: State) -> Stats:
    return _cgroup("stats", lambda: cgroup_manager(saved.cgroup_path).stats())


def pids(saved: State) -> list[int]:
    return _cgroup("pids", lambda: cgroup_manager(saved.cgroup_path).pids())


def delete(saved: State, spec: Spec | None = None, *, force: bool = False) -> None:
    """Remove what create made; ``spec`` is for its poststop hooks, whose failure ends nothing."""
    manager = cgroup_manager(saved.cgroup_path)
    if status(saved) is not Status.STOPPED:
        if not force and status(saved) is not Status.CREATED:
            raise WrongStatus(
                "delete", f"cannot delete container {saved.id} that is not stopped: {status(saved)}"
            )
        kill(saved, signals.SIGKILL)
        _await_death(saved)
    if "pid" not in saved.namespaces:
        manager.kill_all()  # init's death did not take the others along
    _cgroup("delete", manager.delete)
    states.remove(Path(saved.directory))
    if spec is not None and spec.hooks.poststop:
        document = hooks.state_json(
            oci_version=saved.oci_version,
            container_id=saved.id,
            status=Status.STOPPED,
            pid=0,
            bundle=saved.bundle,
            annotations=dict(saved.annotations),
        )
        hooks.run_all("poststop", spec.hooks.poststop, document)


def list_ids(state_root: Path) -> list[str]:
    try:
        return sorted(
            entry.name
            for entry in os.scandir(state_root)
            if os.path.exists(os.path.join(entry.path, "state.json"))
        )
    except FileNotFoundError:
        return []


def _await_death(saved: State) -> None:
    deadline = time.monotonic() + FORCE_SECONDS
    delay = 0.0005
    while states.alive(saved):
        if time.monotonic() > deadline:
            raise RuntimeFailure("delete", "container init still running")
        time.sleep(delay)
        delay = min(delay * 2, 0.05)


def _cgroup(step: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except CgroupError as error:
        raise RuntimeFailure(step, str(error)) from error
    except OSError as error:
        raise RuntimeFailure.from_os(step, error) from error
