"""The child side of exec: a new process in a running container.

Cloned by the shim or ``longshore-runtime``. It is a root process with a Python interpreter that
enters a hostile place, so it is not dumpable, has no descriptor but those listed, and imports
nothing once it is inside. The container's processes do not see it before it is no more than one of
them (entrance.py), unless a seccomp filter forbids it to fork.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from runtime import console, entrance, program, syscalls, users
from runtime.cgroups import join_self
from runtime.channel import Channel
from runtime.errors import RuntimeFailure
from runtime.program import Program
from runtime.rootpath import Root


@dataclass(frozen=True, slots=True)
class Plan:
    program: Program
    init_pidfd: int
    namespace_flags: int
    user_namespace: bool
    cgroup_fds: list[int]
    stdio: tuple[int, int, int] | None
    procfs: int
    oom_score_adj: int | None
    forks: bool  # the clone is not in the container's PID namespace yet


def run(plan: Plan, channel: Channel) -> None:
    """Never returns."""
    try:
        _run(plan, channel)
    except RuntimeFailure as failure:
        _report(channel, failure)
    except OSError as error:
        _report(channel, RuntimeFailure.from_os("exec", error))
    except BaseException as error:
        _report(channel, RuntimeFailure("exec", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(1)


def _report(channel: Channel, failure: RuntimeFailure) -> None:
    with suppress(OSError):  # the runtime may be gone, and with it who would want to know
        channel.fail(failure)


def _run(plan: Plan, channel: Channel) -> None:
    keep = [plan.init_pidfd, plan.procfs, channel.socket.fileno(), *plan.cgroup_fds]
    keep += plan.stdio or ()
    keep += range(3, 3 + plan.program.preserve_fds)
    program.detach_from_parent(keep, die_with_parent=True)
    set_oom_score("self", plan.oom_score_adj)
    join_self(plan.cgroup_fds)
    if plan.user_namespace:
        program.raise_hard_limits(plan.program, 0)
    _enter(plan)
    program.forbid_imports()
    # Only now: what is opened relative to it is the container's.
    root = Root(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    master = _stdio(plan, root)
    identity = users.resolve(plan.program.process.user, root)
    os.close(root.fd)
    syscalls.join_session_keyring()
    listener = program.restrict(plan.program, identity, plan.procfs)
    program.offer_listener(channel, listener)
    program.change_user(plan.program, identity)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    variables = program.environment(plan.program.process, identity.home)
    executable = program.image(plan.program.process, variables)
    terminal = plan.program.process.terminal
    channel.send("ready", (master,) if master >= 0 else ())
    if plan.forks:
        entrance.go_inside(channel, terminal=terminal)
    elif terminal:
        console.control(0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    program.execute(plan.program, executable, channel.socket.fileno())


def set_oom_score(process: int | str, wanted: int | None) -> None:
    """While /proc is the host's. The shim's own protection is not for its container."""
    fd = os.open(f"/proc/{process}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        if wanted is None and int(os.read(fd, 16)) < 0:
            wanted = 0
        if wanted is not None:
            os.pwrite(fd, b"%d" % wanted, 0)
    finally:
        os.close(fd)


def _enter(plan: Plan) -> None:
    try:
        syscalls.setns(plan.init_pidfd, plan.namespace_flags)
    except OSError as error:
        what = "unable to join the container's namespaces"
        raise RuntimeFailure.from_os("setns", error, what) from error
    os.close(plan.init_pidfd)
    if plan.user_namespace:
        os.setgroups(())  # the host's, which have no name here, but would count
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _stdio(plan: Plan, root: Root) -> int:
    """The terminal's master, or -1."""
    if not plan.program.process.terminal:
        if plan.stdio is not None:
            program.connect_stdio(plan.stdio)
        return -1
    master, terminal = console.open_pair(root, plan.program.process.console_size)
    program.connect_stdio((terminal,) * 3)
    os.close(terminal)
    return master
