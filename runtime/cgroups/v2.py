"""Library: a container's cgroup under v2.

One directory, whose controllers must be enabled in every parent. The devices policy is a BPF
program on it (bpf.py). Under the root there must be no process beside the container's own cgroups,
except in the real root: see empty_root().
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import time

from runtime.cgroups import bpf, devices, files, v2_limits, v2_stats
from runtime.cgroups.detect import ROOT, hierarchies
from runtime.cgroups.errors import CgroupError
from runtime.cgroups.interface import (
    FREEZE_SECONDS,
    Manager,
    OOMWatch,
    kill_frozen,
    processes,
    write_pid,
)
from runtime.cgroups.stats import Stats
from runtime.spec import Resources

IN_MODIFY = 0x2  # sys/inotify.h

_libc = ctypes.CDLL(None, use_errno=True)


class V2Manager(Manager):
    def __init__(self, cgroup_path: str, mountpoint: str | None = None) -> None:
        super().__init__(cgroup_path)
        self._root = mountpoint or hierarchies().v2 or ROOT
        self.directory = self._root + self.path

    @property
    def paths(self) -> dict[str, str]:
        return {"": self.directory}

    def create(self) -> None:
        try:
            os.mkdir(self.directory, 0o755)
        except FileExistsError:
            self._refuse_populated()
        except FileNotFoundError:
            os.makedirs(self.directory, 0o755, exist_ok=True)
        wanted = files.read(self._root + "/cgroup.controllers").split()
        present = files.read(self.directory + "/cgroup.controllers").split()
        if missing := [name for name in wanted if name not in present]:
            self._enable(missing)

    def _enable(self, controllers: list[str]) -> None:
        """Hand controllers down from the root; one that cannot be is missed when it is needed."""
        parent = self._root
        for name in self.path.strip("/").split("/"):
            control = parent + "/cgroup.subtree_control"
            try:
                files.write(control, " ".join("+" + each for each in controllers))
            except OSError:
                for each in controllers:
                    try:
                        files.write(control, "+" + each)
                    except OSError as error:
                        # EBUSY: the parent has processes of its own; ENOENT, EOPNOTSUPP: it does
                        # not have this controller, or is threaded.
                        if error.errno not in (errno.EBUSY, errno.ENOENT, errno.EOPNOTSUPP):
                            raise
            parent = f"{parent}/{name}"

    def apply(self, resources: Resources) -> None:
        if resources.devices:
            bpf.replace(self.directory, devices.policy(resources.devices))
        v2_limits.apply(self.directory, resources)

    def join_fds(self, init_pid: int | None = None) -> list[int]:
        path = self._directory_of(init_pid) + "/cgroup.procs"
        return [os.open(path, os.O_WRONLY | os.O_CLOEXEC)]

    def clone_fd(self, init_pid: int | None = None) -> int | None:
        return os.open(self._directory_of(init_pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _directory_of(self, pid: int | None) -> str:
        if pid is None:
            return self.directory
        for line in (files.read_or_none(f"/proc/{pid}/cgroup") or "").splitlines():
            # A path as seen from outside; one that is not below ours means that init was moved.
            if line.startswith("0::" + self.path + "/"):
                return self._root + line.removeprefix("0::")
        return self.directory

    def freeze(self) -> None:
        files.write(self.directory + "/cgroup.freeze", "1")
        try:
            self._wait_frozen()
        except CgroupError:
            self.thaw()
            raise

    def _wait_frozen(self) -> None:
        fd = os.open(self.directory + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            changes = select.poll()
            changes.register(fd, select.POLLPRI)
            deadline = time.monotonic() + FREEZE_SECONDS
            while b"frozen 1" not in os.pread(fd, 256, 0):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise CgroupError(f"unable to freeze cgroup {self.path}")
                changes.poll(remaining * 1000)
        finally:
            os.close(fd)

    def thaw(self) -> None:
        files.write(self.directory + "/cgroup.freeze", "0")

    def frozen(self) -> bool:
        return files.read_number(self.directory + "/cgroup.freeze") == 1

    def kill_all(self) -> None:
        try:
            files.write(self.directory + "/cgroup.kill", "1")
        except FileNotFoundError:
            if self.exists():  # Linux before 5.14
                kill_frozen(self)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):  # threaded; just removed
                raise
            kill_frozen(self)

    def stats(self) -> Stats:
        return v2_stats.read(self.directory)

    def oom_kill_count(self) -> int:
        return files.read_keyed(self.directory + "/memory.events").get("oom_kill", 0)

    def watch_oom(self) -> OOMWatch | None:
        """inotify rather than POLLPRI on the file, so that every event loop can wait for it."""
        events = self.directory + "/memory.events"
        if not os.path.exists(events):
            return None
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(events), IN_MODIFY) < 0:
            code = ctypes.get_errno()
            if fd >= 0:
                os.close(fd)
            raise OSError(code, f"inotify: {os.strerror(code)}", events)
        return OOMWatch(fd)

    def _process_directory(self) -> str:
        return self.directory


def empty_root(root: str) -> None:
    """Move the processes at the root of a delegated tree into a leaf below it.

    A cgroup with processes of its own cannot hand controllers down, and in a container that is
    where all processes are; only the machine's real root, which has no cgroup.type, is exempt.
    """
    if not os.path.exists(root + "/cgroup.type"):
        return
    leaf = root + "/init"
    os.makedirs(leaf, 0o755, exist_ok=True)
    for _ in range(10):  # what was forked meanwhile is there the next time
        pids = processes(root)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                write_pid(leaf + "/cgroup.procs", pid)
