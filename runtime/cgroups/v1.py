"""Library: a container's cgroups under v1 and hybrid, one directory in each hierarchy there is.

The v2 tree of a hybrid system has no controllers and is left alone.
"""

from __future__ import annotations

import os
import signal
import time

from runtime.cgroups import devices, files, v1_limits, v1_stats
from runtime.cgroups.detect import Hierarchies, hierarchies
from runtime.cgroups.errors import CgroupError
from runtime.cgroups.interface import (
    FREEZE_SECONDS,
    Manager,
    OOMWatch,
    kill_frozen,
    remove_tree,
)
from runtime.cgroups.stats import Stats
from runtime.spec import Resources

THAW_SECONDS = 0.2


class V1Manager(Manager):
    def __init__(self, cgroup_path: str, found: Hierarchies | None = None) -> None:
        super().__init__(cgroup_path)
        self._roots = (found or hierarchies()).roots
        self._paths = {name: root + self.path for name, root in self._roots.items()}
        # Controllers mounted together share one directory.
        self._directories = list(dict.fromkeys(self._paths.values()))
        self._fresh = False  # created by this object, so with the kernel's defaults

    @property
    def paths(self) -> dict[str, str]:
        return dict(self._paths)

    def create(self) -> None:
        made: list[str] = []
        try:
            for directory in self._directories:
                if _make(directory):
                    made.append(directory)  # noqa: PERF401 - kept when the next fails
            self._fresh = len(made) == len(self._directories)
            if not self._fresh:
                self._refuse_populated()
            if cpuset := self._paths.get("cpuset"):
                seed_cpuset(cpuset, self._roots["cpuset"], fresh=self._fresh)
        except (OSError, CgroupError):
            for directory in made:
                remove_tree(directory, 0)
            raise

    def apply(self, resources: Resources) -> None:
        if resources.devices:
            directory = self._paths.get("devices")
            if directory is None:
                raise CgroupError("cannot restrict devices: the devices cgroup is not available")
            devices.apply_v1(directory, resources.devices, fresh=self._fresh)
            self._fresh = False
        v1_limits.apply(self._paths, resources)

    def join_fds(self, init_pid: int | None = None) -> list[int]:
        fds: list[int] = []
        try:
            for directory in self._directories:
                fds.append(os.open(directory + "/tasks", os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def clone_fd(self, init_pid: int | None = None) -> int | None:
        return None

    def freeze(self) -> None:
        """The kernel may stay FREEZING while tasks appear; writing again makes it look again.

        runc found that an occasional thaw helps the stragglers
        (libcontainer/cgroups/fs/freezer.go). Not too soon: the fork of a large process takes
        milliseconds, and all of them have to come to their end within one turn.
        """
        state = self._freezer() + "/freezer.state"
        now = time.monotonic()
        deadline, thaw_at, pause = now + FREEZE_SECONDS, now + THAW_SECONDS, 0.0001
        while True:
            files.write(state, "FROZEN")
            if files.read(state).strip() == "FROZEN":
                return
            now = time.monotonic()
            if now > deadline:
                files.write(state, "THAWED")
                raise CgroupError(f"unable to freeze cgroup {self.path}")
            if now > thaw_at:
                files.write(state, "THAWED")
                time.sleep(0.01)
                thaw_at, pause = now + THAW_SECONDS, 0.0001
            time.sleep(pause)
            pause = min(2 * pause, 0.005)

    def thaw(self) -> None:
        files.write(self._freezer() + "/freezer.state", "THAWED")

    def frozen(self) -> bool:
        # Not freezer.state: it also says FROZEN when only a parent was frozen.
        return files.read_number(self._freezer() + "/freezer.self_freezing") == 1

    def kill_all(self) -> None:
        if "freezer" in self._paths:
            kill_frozen(self)
            return
        # Without a freezer a fork can race each pass; what it left is there in the next.
        deadline = time.monotonic() + FREEZE_SECONDS
        while self.pids() and time.monotonic() < deadline:
            self.signal_all(signal.SIGKILL)
            time.sleep(0.001)

    def stats(self) -> Stats:
        return v1_stats.read(self._paths)

    def oom_kill_count(self) -> int:
        if memory := self._paths.get("memory"):
            return files.read_keyed(memory + "/memory.oom_control").get("oom_kill", 0)
        return 0

    def watch_oom(self) -> OOMWatch | None:
        memory = self._paths.get("memory")
        if memory is None:
            return None
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(memory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                files.write(memory + "/cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(event)
            raise
        return OOMWatch(event)

    def _freezer(self) -> str:
        directory = self._paths.get("freezer")
        if directory is None:
            raise CgroupError("cannot pause: the freezer cgroup controller is not available")
        return directory

    def _process_directory(self) -> str:
        for name in ("freezer", "devices", "pids"):
            if name in self._paths:
                return self._paths[name]
        return self._directories[0]


def _make(directory: str) -> bool:
    """False where it existed already."""
    try:
        os.mkdir(directory, 0o755)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(directory, 0o755, exist_ok=True)
        return True


def seed_cpuset(directory: str, root: str, *, fresh: bool = False) -> None:
    """Give an empty v1 cpuset its parent's CPUs and nodes: nothing can join it without (ENOSPC)."""
    parent = os.path.dirname(directory)
    for name in ("/cpuset.cpus", "/cpuset.mems"):
        if not fresh and files.read(directory + name).strip():
            continue
        inherited = files.read(parent + name)
        if not inherited.strip() and len(parent) > len(root):
            seed_cpuset(parent, root)
            inherited = files.read(parent + name)
        files.write(directory + name, inherited)
