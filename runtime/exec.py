"""The parent side of exec; called by the shim and by ``longshore-runtime``.

The child enters all namespaces by init's pidfd, which is opened and checked before, as init cannot
be seen by number from inside. The program's process is a copy of that child, see entrance.py; what
runs in the end is a child of the caller all the same.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from dataclasses import dataclass

from runtime import (
    children,
    entrance,
    idmaps,
    joining,
    listener,
    namespaces,
    procfs,
    program,
    scripted,
    state,
    syscalls,
    validate,
)
from runtime.cgroups import manager as cgroup_manager
from runtime.channel import Channel, Message
from runtime.create import Stdio, hook_state, one_exception
from runtime.errors import RuntimeFailure, WrongStatus
from runtime.spec import Process, Seccomp
from runtime.state import State


@dataclass(frozen=True, slots=True)
class ExecProcess:
    """A process that is executing its program; a child of the caller, who reaps it."""

    pid: int
    pidfd: int  # owned by the caller
    console: int | None  # pty master with process.terminal, owned by the caller


def exec_process(
    saved: State,
    process: Process,
    *,
    stdio: Stdio | None = None,
    seccomp_bpf: bytes | None = None,
    seccomp: Seccomp | None = None,
    preserve_fds: int = 0,
    ignore_paused: bool = False,
) -> ExecProcess:
    """Returns when execve has succeeded."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    validate.check_user(process.user)
    if not ignore_paused and cgroup_manager(saved.cgroup_path).frozen():
        text = "cannot exec in a paused container (use --ignore-paused to override)"
        raise WrongStatus("exec", text)
    prepared = program.prepare(process, seccomp_bpf, seccomp, preserve_fds=preserve_fds)
    with one_exception("exec"), ExitStack() as opened:
        plan, clone_fd, pid_namespace = _prepare(saved, process, prepared, stdio, opened)
        if scripted.possible(plan):
            try:
                return ExecProcess(*scripted.run(plan, clone_fd))
            except scripted.NotPossible:
                pass
            except entrance.Forbidden:
                plan = dataclasses.replace(plan, forks=False)
        try:
            return _run(plan, clone_fd, pid_namespace, saved, seccomp)
        except entrance.Forbidden:
            plan = dataclasses.replace(plan, forks=False)
            return _run(plan, clone_fd, pid_namespace, saved, seccomp)


def _run(
    plan: joining.Plan,
    clone_fd: int,
    pid_namespace: int | None,
    saved: State,
    profile: Seccomp | None,
) -> ExecProcess:
    with ExitStack() as opened:
        ours, theirs = Channel.pair()
        opened.callback(ours.close)
        opened.callback(theirs.close)
        with namespaces.children_in_pid_namespace(None if plan.forks else pid_namespace):
            pid, pidfd = syscalls.clone(0, cgroup_fd=clone_fd)
            if pid == 0:
                joining.run(plan, theirs)
        theirs.close()
        last = "forked" if plan.forks else "ready"
        return _wait_for_exec(ours, ExecProcess(pid, pidfd, None), last, saved, profile)


def _prepare(
    saved: State,
    process: Process,
    prepared: program.Program,
    stdio: Stdio | None,
    opened: ExitStack,
) -> tuple[joining.Plan, int, int | None]:
    """The child's plan, the cgroup to clone into or -1, the PID namespace to clone into."""

    def own(fd: int) -> int:
        opened.callback(os.close, fd)
        return fd

    init_pidfd = own(state.init_pidfd(saved))
    if "user" in saved.namespaces and stdio is not None:
        program.give_stdio(stdio.fds, idmaps.root_of(saved.pid))
    manager = cgroup_manager(saved.cgroup_path)
    flags, pid_namespace = 0, None
    for kind in saved.namespaces:
        flag, name = namespaces.TYPES[kind]
        if kind == "pid":  # for a clone; joining it is for the children of who does
            path = f"/proc/{saved.pid}/ns/{name}"
            pid_namespace = own(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        flags |= flag
    clone_fd = manager.clone_fd(saved.pid)
    fds: list[int] = []
    if clone_fd is not None:
        own(clone_fd)
    else:
        fds = [own(fd) for fd in manager.join_fds(saved.pid)]
    adjustment = process.oom_score_adj
    plan = joining.Plan(
        program=prepared,
        init_pidfd=init_pidfd,
        namespace_flags=flags,
        user_namespace="user" in saved.namespaces,
        cgroup_fds=fds,
        stdio=stdio.fds if stdio else None,
        procfs=own(procfs.detached()) if prepared.lsm else -1,
        oom_score_adj=saved.oom_score_adj if adjustment is None else adjustment,
        # What "scheduler" says may not be for children.
        forks=pid_namespace is not None and process.scheduler is None,
    )
    # The pid may have been reused between the check and the open, but not if init still lives.
    if not state.alive(saved):
        raise WrongStatus("exec", "cannot exec in a stopped container")
    return plan, -1 if clone_fd is None else clone_fd, pid_namespace


def _wait_for_exec(
    channel: Channel, process: ExecProcess, last: str, saved: State, profile: Seccomp | None
) -> ExecProcess:
    """Until the program runs: end of file after the ``last`` message is execve's CLOEXEC."""
    kind, first = "", -1
    try:
        while kind != last:
            message = _next(channel, process)
            kind = message.kind
            if kind == "ready" and message.fds:
                process = dataclasses.replace(process, console=message.fds[0])
            elif kind == "forked":
                first = process.pidfd
                process = ExecProcess(message.fields["pid"], message.fds[0], process.console)
                channel.answer("adopted")
            elif kind == "listener":
                document = hook_state(saved, "running")
                listener.forward(channel, message, profile, document, process.pid, process.pidfd)
        entrance.wait_for_program(channel)
    except BaseException:
        if process.console is not None:
            os.close(process.console)
        children.end(process.pidfd)
        raise
    finally:
        if first >= 0:
            os.waitid(os.P_PIDFD, first, os.WEXITED)
            os.close(first)
    return process


def _next(channel: Channel, process: ExecProcess) -> Message:
    try:
        message = channel.receive() if entrance.has_word(channel.socket, process.pidfd) else None
    except RuntimeFailure as failure:
        if entrance.is_forbidden(failure):
            raise entrance.Forbidden from failure
        raise
    if message is None:
        raise entrance.killed(process.pidfd)
    return message
