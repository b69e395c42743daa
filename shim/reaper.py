"""Library: the shim's children, their exit codes, and the record of the container's exit.

The shim is a subreaper: what the container leaves behind without a pid namespace of its own
becomes its child. Processes that somebody waits for are known by pidfd; SIGCHLD only says that
there may be an orphan to reap. The record is ``shims/<id>/exit``: it tells lifecycle what
happened while it was away.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from runtime import syscalls
from shim.loop import Loop

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

RECORD_NAME = "exit"


@dataclass(frozen=True, slots=True)
class ExitRecord:
    exit_code: int
    oom_killed: bool
    exited_at: int  # ns since 1970

    def write(self, directory: str) -> None:
        """Whole or absent. By hand: whoever waits for the container waits for this, too."""
        path = f"{directory}/{RECORD_NAME}"
        fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps(self))
        finally:
            os.close(fd)
        os.rename(f"{path}.tmp", path)


def exit_code(result: os.waitid_result) -> int:
    """The shell's convention, which is Docker's: 128 + n for a death by signal n."""
    if result.si_code == os.CLD_EXITED:
        return result.si_status
    return 128 + result.si_status


class Reaper:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._wakeup, self._signalled = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        loop.add(self._wakeup.fileno(), select.EPOLLIN, self._on_signal)

    def watch(self, pid: int, pidfd: int, on_exit: Callable[[int], None]) -> None:
        """Call ``on_exit`` with the exit code; ``pidfd`` belongs to the reaper from now on."""
        self._watched[pid] = (pidfd, on_exit)
        self._loop.add(pidfd, select.EPOLLIN, lambda _events: self._collect(pid))

    def forget(self, pid: int) -> None:
        """Nobody waits for ``pid`` any more; it is reaped like an orphan."""
        found = self._watched.pop(pid, None)
        if found is not None:
            self._loop.remove(found[0])
            os.close(found[0])

    def _collect(self, pid: int) -> None:
        pidfd, on_exit = self._watched[pid]
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Still the child of the starter, whose end is near, and brings the next SIGCHLD.
            self._loop.remove(pidfd)
            return
        if result is None:
            return
        del self._watched[pid]
        self._loop.remove(pidfd)
        os.close(pidfd)
        on_exit(exit_code(result))

    def _on_signal(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)
        self.reap()

    def reap(self) -> None:
        """Take all that has ended; also the watched, one of which would hide the rest."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid in self._watched:
                self._collect(found.si_pid)
            else:
                os.waitid(os.P_PID, found.si_pid, os.WEXITED | os.WNOHANG)
