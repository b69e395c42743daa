"""Library: exec's parent side for most containers, whose new process is a script's (entering.py).

The rest goes by a fork of Python (joining.py): it takes more than a list of calls to hand over a
seccomp listener, or to give descriptors to whom a user namespace maps.
"""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from runtime import callscript, children, console, entering, entrance, joining, program, users
from runtime.channel import Channel
from runtime.joining import Plan
from runtime.rootpath import Root

MAX_FILE = 1 << 16  # bytes of the container's passwd and group


class NotPossible(Exception):
    """Nothing has happened: the other way is open."""


@dataclass(slots=True)
class _Processes:
    """Those that there are; owned until they are given away."""

    pid: int
    pidfd: int
    master: int | None = None

    def replace(self, pid: int, pidfd: int) -> None:
        """The first one has done its part, and ends."""
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        self.pid, self.pidfd = pid, pidfd

    def end(self) -> None:
        if self.master is not None:
            os.close(self.master)
        children.end(self.pidfd)


def possible(plan: Plan) -> bool:
    prepared = plan.program
    return callscript.SUPPORTED and not (
        plan.user_namespace
        or prepared.wants_listener
        or prepared.preserve_fds
        or prepared.process.scheduler  # what it says may not be for children
    )


def run(plan: Plan, clone_fd: int) -> tuple[int, int, int | None]:
    """(pid, pidfd, pty master) of a process that is executing its program.

    With a PID namespace that is a copy of the process that was started, made as its last step, for
    who may trace looks into whatever is in there: see entrance.py.
    """
    ours, theirs = Channel.pair()
    with ours.socket:
        with theirs.socket, _given(plan, theirs.socket.fileno()) as fds:
            script = entering.script(plan.program, plan.namespace_flags, fds)
            started = _Processes(*callscript.spawn(script.image(), cgroup_fd=clone_fd))
        try:
            joining.set_oom_score(started.pid, plan.oom_score_adj)
            _answer(plan, script, ours, started)
            _expect_ready(script, ours)
            if plan.forks:
                _adopt_copy(script, ours, started)
            _wait_for_program(script, ours)
        except BaseException:
            started.end()
            raise
    return started.pid, started.pidfd, started.master


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


def _answer(plan: Plan, script: callscript.Script, channel: Channel, started: _Processes) -> None:
    """Take the root directory, give ids and a terminal."""
    with ExitStack() as opened:
        root = _receive_root(script, channel, started.pidfd)
        opened.callback(os.close, root.fd)
        # Longer files are read in a process of the container's: this one has others to serve.
        user = plan.program.process.user
        identity = users.resolve(user, root, limit=MAX_FILE, longer=NotPossible())
        answer = entering.answer(identity)
        if answer is None:
            raise NotPossible
        stdio: Sequence[int] = plan.stdio or range(3)
        rights = []
        if plan.program.process.terminal:
            size = plan.program.process.console_size
            started.master, terminal = console.open_pair(root, size)
            opened.callback(os.close, terminal)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [terminal]))]
            stdio = [terminal]
        program.own_stdio(identity.uid, stdio)
        with suppress(BrokenPipeError):  # it has failed meanwhile, and says why
            channel.socket.sendmsg([answer], rights, socket.MSG_NOSIGNAL)


def _receive_root(script: callscript.Script, channel: Channel, pidfd: int) -> Root:
    data, fds = channel.read(1)
    if fds:
        return Root(fds[0], outside=True)
    if data:
        raise script.failure(data)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    if result is not None and (result.si_code, result.si_status) == _NOT_EXECUTED:
        raise NotPossible
    raise entrance.ended()


_NOT_EXECUTED = (os.CLD_EXITED, callscript.NOT_EXECUTED)


def _expect_ready(script: callscript.Script, channel: Channel) -> None:
    data, _ = channel.read(0)
    if data != entering.READY:
        raise script.failure(data) if data else entrance.ended()


def _adopt_copy(script: callscript.Script, channel: Channel, started: _Processes) -> None:
    word = entrance.has_word(channel.socket, started.pidfd)
    data, fds = channel.read(1) if word else (b"", ())
    if not fds:
        raise script.failure(data) if data else entrance.killed(started.pidfd)
    started.replace(int.from_bytes(data, "little"), fds[0])
    with suppress(BrokenPipeError):
        channel.socket.send(entering.ADOPTED, socket.MSG_NOSIGNAL)


def _wait_for_program(script: callscript.Script, channel: Channel) -> None:
    """End of file is execve's CLOEXEC."""
    data, _ = channel.read(0)
    if data:
        raise script.failure(data)
