"""Library: exec's step into the container's PID namespace, the last before its program runs.

What is in a PID namespace is looked into by whoever has CAP_SYS_PTRACE there, which may be another
container that has joined it. A process that has the host's root directory, or more capabilities
than the container, must not be. So the child side stays outside while it becomes what the program
is to be; then a copy goes on, inside. What that copy says is the container's word: only that it
failed, as by then all else has been said.

Against others it would be enough not to be dumpable. A container that joins another's PID
namespace cannot be made like this: its /proc has to be mounted from inside.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket

from runtime import console, syscalls
from runtime.channel import Channel
from runtime.errors import RuntimeFailure

STEP = "fork"


class Forbidden(RuntimeFailure):
    """A seccomp filter is against it: nothing that a container could bring about by itself."""

    def __init__(self) -> None:
        super().__init__(STEP, "the seccomp filter forbids to enter the PID namespace")


def failure(error: OSError) -> RuntimeFailure:
    return RuntimeFailure.from_os(STEP, error, "unable to enter the PID namespace")


def is_forbidden(found: RuntimeFailure) -> bool:
    return found.step == STEP and found.errno in (errno.EPERM, errno.ENOSYS)


def go_inside(channel: Channel, *, terminal: bool) -> None:
    """Child: returns in a copy of the caller, in the PID namespace that was set for children."""
    try:
        pid, pidfd = syscalls.clone_sibling()
    except OSError as error:  # a seccomp filter may forbid it
        raise failure(error) from error
    if pid:
        channel.send("forked", (pidfd,), pid=pid)
        # End of file must only wait for the copy's execve, and not for this process's memory.
        channel.close()
        os._exit(0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if terminal:
        console.control(0)
    # The parent must know whom to wait for before this can end.
    channel.expect("adopted")


def has_word(sock: socket.socket, pidfd: int) -> bool:
    """Parent: wait for a message; False if the process ended without one, killed by somebody.

    End of file may not come then: a copy that it has made holds the channel, too.
    """
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    poller.unregister(pidfd)
    return bool(poller.poll(0))


def killed(pidfd: int) -> RuntimeFailure:
    """Parent: what it means that the process, which has not been reaped, said nothing."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    if result is not None and result.si_code != os.CLD_EXITED and result.si_status == signal.SIGSYS:
        return Forbidden()
    return ended()


def ended() -> RuntimeFailure:
    return RuntimeFailure("exec", "the process ended before it executed its program")


def wait_for_program(channel: Channel) -> None:
    """Parent: until execve has succeeded, which closes the channel; a failure is raised."""
    while (message := channel.receive()) is not None:
        for fd in message.fds:
            os.close(fd)
