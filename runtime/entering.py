"""Library: the system calls by which a process enters a container to run a program: exec's script.

What joining.py does in a fork of Python, as a ``Script`` (callscript.py) whose process has nothing
else; the order and the words of its failures are those of program.py. Who is to be run, by the
container's /etc/passwd, and what /dev/pts says, is Python's business, so the process stops in the
middle: it sends its root directory to the caller, and goes on with the ids that it gets back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
from dataclasses import dataclass, field

from runtime import callscript, capabilities, entrance, lsm, program, scheduling, syscalls
from runtime.callscript import END, EXIT, NEXT, Label, Script
from runtime.errors import RuntimeFailure
from runtime.program import Program
from runtime.users import Identity

READY, ADOPTED = b"r", b"a"
MAX_GROUPS = 256
MAX_HOME = 1024
FIRST_FD = 10  # of those given; the root directory and then a terminal come below
OPENED = 3
_TIOCSCTTY = 0x540E
_SOCK_FPROG = struct.Struct("<H6xQ")
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Numbers in the process; none of them below FIRST_FD."""

    channel: int
    init: int
    cgroups: list[int] = field(default_factory=list)
    procfs: int = -1
    stdio: tuple[int, int, int] | None = None  # None: as they are

    @property
    def all(self) -> list[int]:
        given = [self.channel, self.init, *self.cgroups, *(self.stdio or ())]
        return sorted({*given, self.procfs} - {-1})


def script(prepared: Program, namespace_flags: int, fds: Descriptors) -> Script:
    """With CLONE_NEWPID in the flags, what runs in the end is a second process: see scripted.py."""
    return _Entering(prepared, namespace_flags, fds).script()


def answer(identity: Identity) -> bytes | None:
    """What the process waits for; None if there is more of it than room."""
    home = os.fsencode(f"HOME={identity.home}")
    if len(identity.groups) > MAX_GROUPS or len(home) >= MAX_HOME:
        return None
    groups = struct.pack(f"<{len(identity.groups)}I", *identity.groups)
    once = struct.pack("<7q", len(identity.groups), *(identity.gid,) * 3, *(identity.uid,) * 3)
    return once * 2 + groups.ljust(MAX_GROUPS * 4, b"\0") + home.ljust(MAX_HOME, b"\0")


class _Entering:
    def __init__(self, prepared: Program, namespace_flags: int, fds: Descriptors) -> None:
        self._program = prepared
        self._process = prepared.process
        self._flags = namespace_flags
        self._fds = fds
        self._script = Script(fds.channel)
        self._late: list[tuple[int, int]] = []  # what the caller's answer fills
        self._groups = self._script.data(bytes(MAX_GROUPS * 4))
        self._home = self._script.data(bytes(MAX_HOME))
        self._filter = 0

    def script(self) -> Script:
        self._detach()
        self._join()
        # The receiving call comes before those that it changes.
        answer = self._script.incoming()
        self._exchange(answer)
        self._restrict()
        self._change_user()
        self._execute()
        filled = [*self._late, (self._groups, MAX_GROUPS * 4), (self._home, MAX_HOME)]
        self._script.receive_into(answer, filled)
        return self._script

    def _prctl(self, option: int, argument: int = 0, second: int = 0) -> None:
        self._script.call("prctl", option, argument, second)

    def _detach(self) -> None:
        call = self._script.call
        self._prctl(syscalls.PR_SET_DUMPABLE, 0)
        self._prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        first = 3
        for fd in self._fds.all:
            if fd > first:
                call("close_range", first, fd - 1)
            first = fd + 1
        call("close_range", first, 0xFFFFFFFF)
        call("fcntl", self._fds.channel, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        call("setsid")
        default = self._script.data(bytes(32))
        for number in syscalls.changed_signals:
            call("rt_sigaction", number, default, 0, 8, on_error=NEXT)
        call("rt_sigprocmask", syscalls.SIG_SETMASK, self._script.data(bytes(8)), 0, 8)

    def _join(self) -> None:
        call = self._script.call
        zero = self._script.string(b"0")
        for fd in self._fds.cgroups:
            call("write", fd, zero, 1)
        what = "unable to join the container's namespaces"
        call(
            *("setns", self._fds.init, self._flags),
            failure=lambda code: RuntimeFailure.from_os("setns", OSError(code, ""), what),
        )

    def _exchange(self, answer: int) -> None:
        """The root directory against ids, and a terminal if there is to be one."""
        call, channel = self._script.call, self._fds.channel
        root = self._script.string(b"/")
        message, descriptor = self._script.outgoing(root, 1)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        opened, received = Label(), Label()
        call(
            *("openat", syscalls.AT_FDCWD, root, flags),
            store=descriptor,
            equal=(OPENED, opened),
        )
        self._script.fail(lambda _: RuntimeFailure("exec", "descriptors below 3 are closed"))
        self._script.place(opened)
        call("sendmsg", channel, message, socket.MSG_NOSIGNAL)
        call("close_range", OPENED, OPENED)
        size = 2 * 7 * 8 + MAX_GROUPS * 4 + MAX_HOME
        call(
            *("recvmsg", channel, answer, socket.MSG_CMSG_CLOEXEC),
            equal=(size, received),
        )
        self._script.fail(lambda _: RuntimeFailure("exec", "the caller has ended"))
        self._script.place(received)
        stdio = (OPENED,) * 3 if self._process.terminal else self._fds.stdio
        for number, fd in enumerate(stdio or ()):
            call("dup3", fd, number, 0)
        call("keyctl", syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0)

    def _restrict(self) -> None:
        """What only root can do; the standard descriptors' owner is the caller's business."""
        call = self._script.call
        for write in lsm.writes(self._program.lsm):
            self._write_label(write)
        self._close_all()
        self._schedule()
        for number, soft, hard in self._program.rlimits:
            call(
                *("prlimit64", 0, number, self._script.data(_limits(soft, hard)), 0),
                failure=_limit_failure(number, soft, hard),
            )
        if self._process.no_new_privileges:
            self._prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        else:
            self._install_seccomp()

    def _write_label(self, write: lsm.Write) -> None:
        call = self._script.call

        def failure(code: int) -> RuntimeFailure:
            return write.failure(OSError(code, ""))

        how = self._script.data(struct.pack("<3Q", os.O_WRONLY | os.O_CLOEXEC, 0, lsm.BENEATH))
        path = self._script.string(write.path.encode())
        opening = call("openat2", self._fds.procfs, path, how, 24, failure=failure)
        writing = call(
            *("write", 0, self._script.data(write.text), len(write.text)), failure=failure
        )
        self._script.store(opening, writing + 8)  # as its first argument

    def _schedule(self) -> None:
        call, wanted = self._script.call, self._program.scheduling
        cpus = sum(1 << each for each in wanted.affinity)
        mask = self._script.data(cpus.to_bytes(max(wanted.affinity) // 64 * 8 + 8, "little"))
        # The cpuset may have none of them, and its own are in force then.
        call("sched_setaffinity", 0, max(wanted.affinity) // 64 * 8 + 8, mask, on_error=NEXT)
        self._prctl(syscalls.PR_SET_TIMERSLACK, scheduling.DEFAULT_TIMER_SLACK)

        def failure(code: int) -> RuntimeFailure:
            return scheduling.failure(OSError(code, ""))

        if wanted.attributes is not None:
            attributes = self._script.data(bytes(wanted.attributes))
            call("sched_setattr", 0, attributes, 0, failure=failure)
        if wanted.io_priority is not None:
            call("ioprio_set", 1, 0, wanted.io_priority, failure=failure)

    def _install_seccomp(self) -> None:
        bpf = self._program.seccomp_bpf
        if bpf is None:
            return
        if not self._filter:
            code = self._script.data(bpf)
            self._filter = self._script.data(_SOCK_FPROG.pack(len(bpf) // 8, code))
        flags = self._program.seccomp_flags
        self._script.call(
            *("seccomp", syscalls.SECCOMP_SET_MODE_FILTER, flags, self._filter),
            failure=lambda number: program.seccomp_failure(OSError(number, "")),
        )

    def _change_user(self) -> None:
        call, masks, last = self._script.call, self._program.masks, self._program.last_capability
        for number in capabilities.numbers(~masks.bounding, last):
            self._prctl(syscalls.PR_CAPBSET_DROP, number)
        directory = self._script.string(os.fsencode(self._process.cwd))
        as_user, done = Label(), Label()

        def failure(code: int) -> RuntimeFailure:
            return program.cwd_failure(self._process.cwd, OSError(code, ""))

        # As root first, as Docker users expect of a 0700 directory; else as the user, on NFS.
        call("chdir", directory, equal=(-errno.EACCES, as_user), failure=failure)
        self._set_ids(done)
        self._script.place(as_user)
        entered = Label()
        self._set_ids(entered)
        self._script.place(entered)
        call("chdir", directory, failure=failure)
        self._script.place(done)
        self._check_cwd()
        header, data = syscalls.capset_arguments(
            masks.effective, masks.permitted, masks.inheritable
        )
        call("capset", self._script.data(bytes(header)), self._script.data(bytes(data)))
        self._prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in capabilities.raised_ambient(masks, last):
            self._prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
        # Some changes of credentials undo both.
        self._prctl(syscalls.PR_SET_DUMPABLE, 0)
        self._prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        call("umask", program.umask(self._process))

    def _set_ids(self, then: Label) -> None:
        def failure(code: int) -> RuntimeFailure:
            return program.user_failure(OSError(code, ""))

        script = self._script
        self._prctl(syscalls.PR_SET_KEEPCAPS, 1)
        groups = script.call("setgroups", 0, self._groups, failure=failure)
        gids = script.call("setresgid", 0, 0, 0, failure=failure)
        uids = script.call("setresuid", 0, 0, 0, failure=failure)
        script.call("prctl", syscalls.PR_SET_KEEPCAPS, 0, then=then)
        # The first argument of each, or all three.
        self._late += [(groups + 8, 8), (gids + 8, 24), (uids + 8, 24)]

    def _check_cwd(self) -> None:
        """What getcwd says must be absolute (CVE-2024-21626); then faccessat2 ignores the -1."""
        call, buffer = self._script.call, self._script.data(bytes(4096))
        outside, inside = Label(), Label()
        call("getcwd", buffer, 4096, failure=lambda _: program.cwd_outside())
        call(
            *("faccessat2", -1, buffer, os.F_OK, 0),
            equal=(-errno.EBADF, outside),
            on_error=inside,
            then=inside,
        )
        self._script.place(outside)
        self._script.fail(lambda _: program.cwd_outside())
        self._script.place(inside)

    def _execute(self) -> None:
        """Look for the program as ``program.find_program`` does, and run it."""
        variables = program.environment(self._process, "")
        name = self._process.args[0]
        has_home = any(entry.startswith("HOME=") for entry in self._process.env)
        strings = [
            self._script.string(os.fsencode(f"{key}={value}"))
            for key, value in variables.items()
            if key != "HOME" or has_home
        ]
        envp = self._vector(strings if has_home else [*strings, self._home])
        argv = self._vector([self._script.string(os.fsencode(a)) for a in self._process.args])
        if "/" in name:
            self._try(name, argv, envp, None)
            return
        for candidate in program.candidates(name, variables.get("PATH", "")):
            following = Label()
            self._try(candidate, argv, envp, following)
            self._script.place(following)
        self._script.fail(lambda _: program.not_found(name))

    def _close_all(self) -> None:
        """But the standard descriptors and the channel, which execve closes."""
        channel = self._fds.channel
        self._script.call("close_range", 3, channel - 1)
        self._script.call("close_range", channel + 1, 0xFFFFFFFF)

    def _vector(self, addresses: list[int]) -> int:
        return self._script.data(struct.pack(f"<{len(addresses) + 1}Q", *addresses, 0))

    def _try(self, path: str, argv: int, envp: int, following: Label | None) -> None:
        """One candidate; ``following`` is where to go on if it is none, else that is a failure."""
        call, raw = self._script.call, os.fsencode(path)
        address = self._script.string(raw)

        def failure(code: int) -> RuntimeFailure:
            return program.exec_failure(path, OSError(code, ""))

        no_directory, directory = Label(), following or Label()
        call(
            *("faccessat2", syscalls.AT_FDCWD, self._script.string(raw + b"/"), os.F_OK, 0),
            on_error=no_directory,
            then=directory,
        )
        if following is None:
            self._script.place(directory)
            self._script.fail(lambda _: failure(errno.EISDIR))
        self._script.place(no_directory)
        call(
            *("faccessat2", syscalls.AT_FDCWD, address, os.X_OK, syscalls.AT_EACCESS),
            on_error=following or END,
            failure=failure,
        )
        self._run(path, address, argv, envp)

    def _run(self, path: str, address: int, argv: int, envp: int) -> None:
        """With no_new_privs the filter may forbid all but execve, so it comes last."""
        call = self._script.call
        call("write", self._fds.channel, self._script.data(READY), len(READY))
        if self._flags & syscalls.CLONE_NEWPID:
            self._go_inside()
        if self._process.terminal:
            call("ioctl", 0, _TIOCSCTTY, 0)
        self._prctl(syscalls.PR_SET_PDEATHSIG, 0)
        self._close_all()
        if self._process.no_new_privileges:
            self._install_seccomp()
        call(
            *("execve", address, argv, envp),
            failure=lambda code: RuntimeFailure.from_os(
                "exec", OSError(code, "", path), f"exec {path}"
            ),
        )

    def _go_inside(self) -> None:
        """A copy goes on in the PID namespace; it is the caller's child, who is told of it.

        Who can look into it there finds what they may do themselves.
        """
        call, channel = self._script.call, self._fds.channel
        pid, answer = self._script.data(bytes(8)), self._script.data(bytes(8))
        message, pidfd = self._script.outgoing(pid, 8)
        flags = syscalls.CLONE_PARENT | syscalls.CLONE_PIDFD
        copy = Label()
        call(
            *("clone", flags, 0, pidfd),
            equal=(0, copy),
            store=pid,
            failure=_not_inside,
        )
        call("sendmsg", channel, message, socket.MSG_NOSIGNAL)
        call("exit_group", 0)
        self._script.place(copy)
        self._prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        call("setsid")
        # The caller must know whom to wait for before this can end.
        call("read", channel, answer, 8, equal=(0, EXIT))


def _not_inside(code: int) -> RuntimeFailure:
    failure = entrance.failure(OSError(code, ""))
    return entrance.Forbidden() if entrance.is_forbidden(failure) else failure


def _limits(soft: int, hard: int) -> bytes:
    return struct.pack("<2Q", soft & _WORD, hard & _WORD)


def _limit_failure(number: int, soft: int, hard: int) -> callscript.Failure:
    return lambda code: program.limit_failure(number, errno.EINVAL if soft > hard else code)
