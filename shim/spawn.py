"""Library: runs a command and waits for it, for external.py.

subprocess would be in every shim's memory; posix_spawn is already there. The shim's reaper is not
running meanwhile, so that it cannot take the command's exit status away.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Mapping

from runtime.errors import RuntimeFailure

_RESET_SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD]


def run(
    command: list[str], stdio: tuple[int, int, int], *, seconds: float, env: Mapping[str, str]
) -> int:
    """The exit status of ``command``; it is killed, and a failure, after ``seconds``."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(_above(stdio))]
    try:
        pid = os.posix_spawn(
            command[0], command, env, file_actions=actions, setsigdef=_RESET_SIGNALS, setsigmask=[]
        )
    except OSError as e:
        raise RuntimeFailure.from_os("runtime", e, command[0]) from e
    finally:
        for _, fd, _ in actions:
            os.close(fd)
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeFailure("runtime", f"{command[0]}: no answer within {seconds:g} seconds")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _above(fds: tuple[int, int, int]) -> list[int]:
    """Copies that no dup2 onto 0, 1 or 2 can overwrite before its turn."""
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
