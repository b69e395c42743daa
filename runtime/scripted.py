"""Library: exec's parent side for most containers, whose new process is a script's (entering.py).

The rest goes by a fork of Python (joining.py): it takes more than a list of calls to map the ids
of a user namespace, to hand over a seccomp listener, or to keep out of sight of who may trace.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from runtime import callscript, console, entering, joining, namespaces, program, users
from runtime.channel import MAX_FDS
from runtime.errors import RuntimeFailure
from runtime.joining import Plan
from runtime.rootpath import Root

_LIMIT = 4096  # bytes of a message of the process's


class NotPossible(Exception):
    """Nothing has happened: the other way is open."""


def possible(plan: Plan) -> bool:
    prepared = plan.program
    return not (
        plan.forks
        or plan.user_namespace
        or prepared.wants_listener
        or prepared.preserve_fds
        or not callscript.SUPPORTED
    )


def run(plan: Plan, clone_fd: int, pid_namespace: int | None) -> tuple[int, int, int | None]:
    """(pid, pidfd, pty master) of a process that is executing its program."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, _given(plan, theirs.fileno()) as fds:
            script = entering.script(plan.program, plan.namespace_flags, fds)
            image = script.image()
            with namespaces.children_in_pid_namespace(pid_namespace):
                pid, pidfd = callscript.spawn(image, cgroup_fd=clone_fd)
        try:
            joining.set_oom_score(pid, plan.oom_score_adj)
            master = _answer(plan, script, ours, pidfd)
        except BaseException:
            _end(pidfd)
            raise
        try:
            _wait_for_program(script, ours)
        except BaseException:
            if master is not None:
                os.close(master)
            _end(pidfd)
            raise
    return pid, pidfd, master


@contextmanager
def _given(plan: Plan, channel: int) -> Iterator[entering.Descriptors]:
    """What the process inherits, by numbers that nothing else has in it."""
    with ExitStack() as copies:

        def give(fd: int) -> int:
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD, entering.FIRST_FD)
            copies.callback(os.close, copy)
            return copy

        stdio = plan.stdio if not plan.program.process.terminal else None
        yield entering.Descriptors(
            channel=give(channel),
            init=give(plan.init_pidfd),
            cgroups=[give(fd) for fd in plan.cgroup_fds],
            procfs=give(plan.procfs) if plan.procfs >= 0 else -1,
            stdio=(give(stdio[0]), give(stdio[1]), give(stdio[2])) if stdio else None,
        )


def _answer(
    plan: Plan, script: callscript.Script, channel: socket.socket, pidfd: int
) -> int | None:
    """Take the root directory, give ids and a terminal; the terminal's master is returned."""
    with ExitStack() as opened:
        root = _receive_root(script, channel, pidfd)
        opened.callback(os.close, root.fd)
        identity = users.resolve(plan.program.process.user, root)
        answer = entering.answer(identity)
        if answer is None:
            raise NotPossible
        master, rights = None, []
        if plan.program.process.terminal:
            master, terminal = console.open_pair(root, plan.program.process.console_size)
            opened.callback(os.close, terminal)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [terminal]))]
        try:
            stdio = (terminal,) if master is not None else plan.stdio or range(3)
            program.own_stdio(identity.uid, stdio)
            with suppress(BrokenPipeError):  # it has failed meanwhile, and says why
                channel.sendmsg([answer], rights, socket.MSG_NOSIGNAL)
        except BaseException:
            if master is not None:
                os.close(master)
            raise
    return master


def _receive_root(script: callscript.Script, channel: socket.socket, pidfd: int) -> Root:
    space = socket.CMSG_SPACE(MAX_FDS * 4)
    data, rights, _, _ = channel.recvmsg(_LIMIT, space, socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for _level, _kind, content in rights:
        fds.frombytes(content)
    if fds:
        return Root(fds[0])
    if data:
        raise script.failure(data)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    if result is not None and (result.si_code, result.si_status) == _NOT_EXECUTED:
        raise NotPossible
    raise _ended()


_NOT_EXECUTED = (os.CLD_EXITED, callscript.NOT_EXECUTED)


def _wait_for_program(script: callscript.Script, channel: socket.socket) -> None:
    """End of file after READY is execve's CLOEXEC."""
    ready = False
    while data := _receive(channel):
        if data != entering.READY:
            raise script.failure(data)
        ready = True
    if not ready:
        raise _ended()


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(_LIMIT)
    except ConnectionResetError:
        # It ended with the answer unread. The kernel says so once, and first; its own last
        # message may still be there.
        return channel.recv(_LIMIT)


def _ended() -> RuntimeFailure:
    return RuntimeFailure("exec", "the process ended before it executed its program")


def _end(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
