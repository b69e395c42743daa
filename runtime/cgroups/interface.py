"""Library: the one interface to a container's cgroup; v1.py and v2.py implement it.

Used by the shim and by ``longshore-runtime``; single-threaded callers. A manager is only a path and
holds no descriptors, so one for an existing cgroup may be made at any time. Kernel failures are
OSError with the path, all else CgroupError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runtime.cgroups import files
from runtime.cgroups.detect import absolute
from runtime.cgroups.errors import CgroupError
from runtime.cgroups.stats import Stats
from runtime.spec import Resources

DELETE_SECONDS = 2.0
FREEZE_SECONDS = 5.0
JOIN_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class OOMWatch:
    """Readable after an out-of-memory event and when the cgroup goes: see oom_kill_count()."""

    fd: int  # owned by the caller

    def drain(self) -> None:
        """Rearm; the content says nothing that the counter does not."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)


class Manager(ABC):
    """``cgroup_path`` is absolute below the hierarchies' roots, such as ``/longshore/<id>``."""

    def __init__(self, cgroup_path: str) -> None:
        self.path = absolute(cgroup_path)
        if not self.path:
            raise CgroupError(f"cgroup path {cgroup_path!r} is the hierarchy's root")

    @property
    @abstractmethod
    def paths(self) -> dict[str, str]:
        """Controller → directory, for state.json; the one v2 directory has the key ""."""

    @abstractmethod
    def create(self) -> None:
        """Make the cgroup and its parents. An empty one that exists already is taken over."""

    @abstractmethod
    def apply(self, resources: Resources) -> None:
        """Set what ``resources`` mentions, at creation or as an update; leave the rest alone.

        Devices are set as a whole: what no rule allows is denied, unless there are no rules at all.
        """

    @abstractmethod
    def join_fds(self, init_pid: int | None = None) -> list[int]:
        """Descriptors for ``join_self`` in a forked, still single-threaded child.

        An exec passes the container's init: on v2 a container with cgroups of its own cannot take
        a process at its top, so the newcomer goes where init is.
        """

    @abstractmethod
    def clone_fd(self, init_pid: int | None = None) -> int | None:
        """A descriptor for clone3's CLONE_INTO_CGROUP, owned by the caller; None on v1."""

    @abstractmethod
    def freeze(self) -> None: ...

    @abstractmethod
    def thaw(self) -> None: ...

    @abstractmethod
    def frozen(self) -> bool: ...

    @abstractmethod
    def kill_all(self) -> None:
        """SIGKILL to every process in the subtree, with none escaping by forking."""

    @abstractmethod
    def stats(self) -> Stats: ...

    @abstractmethod
    def oom_kill_count(self) -> int: ...

    @abstractmethod
    def watch_oom(self) -> OOMWatch | None:
        """None where the memory controller is missing."""

    @abstractmethod
    def _process_directory(self) -> str:
        """The directory whose cgroup.procs files list the container's processes."""

    def join(self, pid: int) -> None:
        """Move a whole process; on v1 this waits milliseconds per hierarchy (see join_self)."""
        for directory in dict.fromkeys(self.paths.values()):
            write_pid(f"{directory}/cgroup.procs", pid)

    def pids(self) -> list[int]:
        """All processes in the subtree, as this process's PID namespace numbers them."""
        found: list[int] = []
        for directory in subtree(self._process_directory()):
            found += processes(directory)
        return found

    def signal_all(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self.paths.values())

    def delete(self) -> None:
        """Remove the cgroup and all below it; nothing happens where it is gone already."""
        deadline = time.monotonic() + DELETE_SECONDS
        for directory in dict.fromkeys(self.paths.values()):
            remove_tree(directory, deadline)

    def _refuse_populated(self) -> None:
        """Two containers in one cgroup would share limits and be killed together."""
        if pids := self.pids():
            raise CgroupError(
                f"container's cgroup is not empty: {len(pids)} process(es) found in {self.path}"
            )


def join_self(fds: Iterable[int]) -> None:
    """In the child: enter the cgroup and close. Runs after fork, so it imports nothing.

    On v1 the descriptors are ``tasks`` files: moving one thread spares the wait for the global
    thread-group lock, 1.6 ms per hierarchy (measured on 6.18, 9 hierarchies: 0.35 instead of 14.5).
    """
    for fd in fds:
        os.write(fd, b"0")
        os.close(fd)


def subtree(directory: str) -> Iterator[str]:
    """``directory`` and every cgroup below it, parents first; empty where it does not exist."""
    yield directory
    try:
        with os.scandir(directory) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for child in children:
        yield from subtree(child)


def processes(directory: str) -> list[int]:
    try:
        text = files.read_or_none(f"{directory}/cgroup.procs")
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed between open and read
            return []
        if error.errno != errno.EOPNOTSUPP:
            raise
        # A threaded cgroup on v2 lists its processes at the top of the threaded subtree.
        return []
    # 0 stands for a process outside of this PID namespace; signalling it would hit our own group.
    return [pid for pid in map(int, (text or "").split()) if pid > 0]


def write_pid(path: str, pid: int) -> None:
    for attempt in range(JOIN_ATTEMPTS):
        try:
            files.write(path, str(pid))
            return
        except OSError as error:
            # EINVAL: the task is still being set up by clone(2).
            if error.errno != errno.EINVAL or attempt == JOIN_ATTEMPTS - 1:
                raise
            time.sleep(0.01)


def remove_tree(directory: str, deadline: float) -> None:
    """rmdir, children first; a just-killed process keeps it busy until its parent has reaped it."""
    delay = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        for child in list(subtree(directory))[:0:-1]:
            try:
                os.rmdir(child)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise
        try:
            os.rmdir(directory)
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOENT):
                raise
        time.sleep(delay)
        delay = min(delay * 2, 0.05)


def kill_frozen(manager: Manager) -> None:
    """kill_all without cgroup.kill: nothing can fork while it is frozen, so one pass gets all.

    Where freezing fails, passes are repeated: each shrinks what can still fork.
    """
    for _ in range(10):
        try:
            manager.freeze()
            complete = True
        except (OSError, CgroupError):
            complete = False
        try:
            manager.signal_all(signal.SIGKILL)
        finally:
            with contextlib.suppress(FileNotFoundError):
                manager.thaw()
        if complete or not manager.pids():
            return
