"""Compiled filters in the running kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lifecycle import capabilities, seccomp_profile
from runtime import seccomp, spec, syscalls
from runtime.spec import Seccomp, SeccompArg, SeccompRule

libc = ctypes.CDLL(None, use_errno=True)
NR_GETPPID = {"x86_64": 110}.get(os.uname().machine, 173)
NR_MKDIRAT = {"x86_64": 258}.get(os.uname().machine, 34)


def call(number: int, *arguments: int) -> int:
    """errno, or 0 for success."""
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0


def under(profile: Seccomp, body: Callable[[], int]) -> int:
    """``body``'s answer, given as an exit status, in a process with the filter."""
    program = seccomp.compile(profile)
    pid = os.fork()
    if pid == 0:
        status = 250
        try:
            seccomp.install(program, seccomp.flags(profile))
            status = body()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def allow_all_but(*rules: SeccompRule) -> Seccomp:
    return Seccomp("SCMP_ACT_ALLOW", syscalls=rules)


def refuse(value: int, op: str = "SCMP_CMP_EQ", two: int = 0) -> Seccomp:
    argument = SeccompArg(0, value, two, op)
    return allow_all_but(SeccompRule(("mkdirat",), "SCMP_ACT_ERRNO", 77, (argument,)))


@pytest.mark.parametrize(
    ("op", "refused"),
    [
        ("SCMP_CMP_EQ", {5}),
        ("SCMP_CMP_NE", {4, 6}),
        ("SCMP_CMP_LT", {4}),
        ("SCMP_CMP_LE", {4, 5}),
        ("SCMP_CMP_GT", {6}),
        ("SCMP_CMP_GE", {5, 6}),
    ],
)
def test_operators(op: str, refused: set[int]) -> None:
    for value in (4, 5, 6):
        answer = under(refuse(5, op), lambda value=value: call(NR_MKDIRAT, value, 0, 0))  # type: ignore[misc]
        assert (answer == 77) == (value in refused), value


def test_masked_equality() -> None:
    profile = refuse(0xF0, "SCMP_CMP_MASKED_EQ", 0x20)
    assert under(profile, lambda: call(NR_MKDIRAT, 0x123, 0, 0)) == 77
    assert under(profile, lambda: call(NR_MKDIRAT, 0x133, 0, 0)) != 77


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    arguments = (SeccompArg(0, 3), SeccompArg(0, 4))
    profile = allow_all_but(SeccompRule(("mkdirat",), "SCMP_ACT_ERRNO", 77, arguments))
    for value, expected in ((3, 77), (4, 77), (5, errno.EFAULT)):
        answer = under(profile, lambda value=value: call(NR_MKDIRAT, value, 0, 0))  # type: ignore[misc]
        assert answer == expected or (expected == errno.EFAULT and answer != 77)


def test_actions_that_kill() -> None:
    for name in ("SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"):
        profile = allow_all_but(SeccompRule(("getppid",), name))
        assert under(profile, lambda: call(NR_GETPPID)) == -signal.SIGSYS


def test_log_and_trace() -> None:
    log = allow_all_but(SeccompRule(("getppid",), "SCMP_ACT_LOG"))
    assert under(log, lambda: call(NR_GETPPID)) == 0
    trace = allow_all_but(SeccompRule(("getppid",), "SCMP_ACT_TRACE"))
    assert under(trace, lambda: call(NR_GETPPID)) == errno.ENOSYS  # nobody traces


def test_notify_gives_a_listener() -> None:
    profile = allow_all_but(SeccompRule(("getppid",), "SCMP_ACT_NOTIFY"))
    assert seccomp.flags(profile) & syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
    program = seccomp.compile(profile)
    pid = os.fork()
    if pid == 0:
        status = 250
        try:
            fd = seccomp.install(program, seccomp.flags(profile))
            status = int("seccomp" not in os.readlink(f"/proc/self/fd/{fd}"))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def default_filter(*added: str) -> Seccomp:
    profile = seccomp_profile.default_profile(capabilities.adjust(added, ()))
    return spec.parse_seccomp(profile)


def test_the_default_profile_installs_and_says_so() -> None:
    def mode() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Seccomp:"))

    assert under(default_filter(), mode) == 2


def test_an_unknown_call_is_enosys_and_a_known_one_eperm() -> None:
    profile = default_filter()
    for number in (470, 600, 5000):
        assert under(profile, lambda number=number: call(number)) == errno.ENOSYS  # type: ignore[misc]
    nr_io_uring_setup = 425
    assert under(profile, lambda: call(nr_io_uring_setup, 1, 0)) == errno.EPERM


def test_clone_of_namespaces_needs_sys_admin() -> None:
    def unshare() -> int:
        try:
            syscalls.unshare(syscalls.CLONE_NEWUTS)
        except OSError as error:
            return error.errno or 250
        return 0

    assert under(default_filter(), unshare) == errno.EPERM
    assert under(default_filter("sys_admin"), unshare) == 0


def socket_errno(family: int) -> int:
    try:
        socket.socket(family, socket.SOCK_SEQPACKET if family == socket.AF_ALG else 1).close()
    except OSError as error:
        return error.errno or 250
    return 0


def test_socket_families() -> None:
    profile = default_filter()
    assert under(profile, lambda: socket_errno(socket.AF_UNIX)) == 0
    assert under(profile, lambda: socket_errno(socket.AF_INET)) == 0
    assert under(profile, lambda: socket_errno(socket.AF_ALG)) == errno.EPERM
    assert under(profile, lambda: socket_errno(socket.AF_VSOCK)) == errno.EPERM


def test_calls_that_the_library_does_not_know_are_judged() -> None:
    newest = max(seccomp.NEW_CALLS, key=seccomp.NEW_CALLS.__getitem__)
    number = seccomp.NEW_CALLS[newest]
    refused = allow_all_but(SeccompRule((newest,), "SCMP_ACT_ERRNO", 77))
    assert under(refused, lambda: call(number)) == 77
    allowed = default_filter()
    rules = (*allowed.syscalls, SeccompRule((newest,), "SCMP_ACT_ALLOW"))
    allowed = Seccomp("SCMP_ACT_ERRNO", architectures=allowed.architectures, syscalls=rules)
    # Past the filter: the kernel's own answer, whatever it is.
    assert under(allowed, lambda: call(number)) == call(number)
    assert under(allowed, lambda: call(number - 1)) == errno.EPERM


def test_cached_filter_is_made_once(tmp_path: Path) -> None:
    profile = seccomp_profile.default_profile(capabilities.DEFAULT)
    path = seccomp_profile.cached_filter(tmp_path / "cache", profile)
    made = path.stat()
    assert seccomp_profile.cached_filter(tmp_path / "cache", profile) == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    assert path.read_bytes() == seccomp.compile(spec.parse_seccomp(profile))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
