"""The parent side of exec; called by the shim and by ``longshore-runtime``.

One clone: it lands in the container's PID namespace, because this process points its children
there for a moment, and enters the other namespaces by itself. Init's pidfd is opened and checked
before, as init cannot be seen by number from inside.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from runtime import joining, listener, namespaces, procfs, program, state, syscalls, validate
from runtime.cgroups import manager as cgroup_manager
from runtime.channel import Channel
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
    with one_exception("exec"), ExitStack() as opened:
        plan, clone_fd, pid_namespace = _prepare(
            saved,
            process,
            program.prepare(process, seccomp_bpf, seccomp, preserve_fds=preserve_fds),
            stdio,
            opened,
        )
        ours, theirs = Channel.pair()
        opened.callback(ours.close)
        opened.callback(theirs.close)
        with namespaces.children_in_pid_namespace(pid_namespace):
            pid, pidfd = syscalls.clone(0, cgroup_fd=clone_fd)
            if pid == 0:
                joining.run(plan, theirs)
        theirs.close()
        return _wait_for_exec(ours, ExecProcess(pid, pidfd, None), saved, seccomp)


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
    manager = cgroup_manager(saved.cgroup_path)
    flags, pid_namespace = 0, None
    for kind in saved.namespaces:
        flag, name = namespaces.TYPES[kind]
        if kind == "pid":
            path = f"/proc/{saved.pid}/ns/{name}"
            pid_namespace = own(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        else:
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
    )
    # The pid may have been reused between the check and the open, but not if init still lives.
    if not state.alive(saved):
        raise WrongStatus("exec", "cannot exec in a stopped container")
    return plan, -1 if clone_fd is None else clone_fd, pid_namespace


def _wait_for_exec(
    channel: Channel, process: ExecProcess, saved: State, profile: Seccomp | None
) -> ExecProcess:
    """Until the program runs: end of file after "ready" is execve's CLOEXEC."""
    ready = False
    try:
        while (message := channel.receive()) is not None:
            if message.kind == "ready":
                ready = True
                if message.fds:
                    process = dataclasses.replace(process, console=message.fds[0])
            elif message.kind == "listener":
                document = hook_state(saved, "running")
                listener.forward(channel, message, profile, document, process.pid, process.pidfd)
        if not ready:
            raise RuntimeFailure("exec", "the process ended before it executed its program")
    except BaseException:
        if process.console is not None:
            os.close(process.console)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
        os.close(process.pidfd)
        raise
    return process
