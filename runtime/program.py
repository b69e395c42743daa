"""Library: from a forked child to the container's program: who it is, what it may do, and execve.

``prepare`` runs in the parent and turns an OCI process into numbers and bytes, so that a wrong
name fails before anything exists. The rest runs on the child side, of create (init.py) and of exec
(joining.py) alike, in the order in which it stands here. Nothing on the child side imports, looks
up a name service or unwinds past os._exit.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from runtime import capabilities, lsm, scheduling, syscalls, users
from runtime import seccomp as seccomp_compiler
from runtime.capabilities import Masks
from runtime.channel import Channel
from runtime.errors import RuntimeFailure, reason
from runtime.spec import Process, Seccomp

RLIM_INFINITY = (1 << 64) - 1
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}  # linux/personality.h


@dataclass(frozen=True, slots=True)
class Program:
    process: Process
    masks: Masks
    last_capability: int
    rlimits: tuple[tuple[int, int, int], ...]
    scheduling: scheduling.Scheduling
    lsm: lsm.Labels
    seccomp_bpf: bytes | None
    seccomp_flags: int
    preserve_fds: int

    @property
    def wants_listener(self) -> bool:
        return bool(self.seccomp_flags & syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER)


def prepare(
    process: Process,
    seccomp_bpf: bytes | None,
    seccomp: Seccomp | None = None,
    *,
    preserve_fds: int = 0,
) -> Program:
    if not process.args:
        raise RuntimeFailure("config", "process.args must not be empty")
    if not process.cwd.startswith("/"):
        raise RuntimeFailure("config", f"Cwd property must be an absolute path: {process.cwd!r}")
    for number in range(3, 3 + preserve_fds):
        try:
            os.fstat(number)
        except OSError as error:
            raise RuntimeFailure(
                "config", f"preserved file descriptor {number} is not open"
            ) from error
    if seccomp is not None and seccomp_bpf is None:
        seccomp_bpf = seccomp_compiler.compile(seccomp)
    return Program(
        process=process,
        masks=capabilities.masks(process.capabilities),
        last_capability=capabilities.last(),
        rlimits=tuple(_rlimit(each.type, each.soft, each.hard) for each in process.rlimits),
        scheduling=scheduling.prepare(process),
        lsm=lsm.prepare(process),
        seccomp_bpf=seccomp_bpf,
        seccomp_flags=seccomp_compiler.flags(seccomp) if seccomp else 0,
        preserve_fds=preserve_fds,
    )


def _rlimit(name: str, soft: int, hard: int) -> tuple[int, int, int]:
    number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
    if number is None:
        raise RuntimeFailure("config", f"wrong rlimit value: {name}")
    return (
        number,
        *(resource.RLIM_INFINITY if value >= RLIM_INFINITY else value for value in (soft, hard)),
    )


# What follows runs in the child.


def detach_from_parent(keep: list[int], *, die_with_parent: bool) -> None:
    """First of all: nothing of the parent's may stay reachable, nor outlive it by accident."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if die_with_parent:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    gc.disable()
    close_all_but(keep)
    os.setsid()
    # Python ignores SIGPIPE and SIGXFSZ, and execve would keep that.
    syscalls.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)


def forbid_imports() -> None:
    """From here on a lazy import would run the container's code as root: make it fail instead.

    So would whatever else has the interpreter or the C library open a file of the container's by
    its name. What the runtime opens by itself it opens with os.open.
    """
    forget_import_paths()
    sys.addaudithook(_refuse)


def forget_import_paths() -> None:
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


FORBIDDEN = frozenset(
    {
        *("import", "compile", "exec", "ctypes.dlopen", "subprocess.Popen", "os.system"),
        *("os.posix_spawn", "pty.spawn"),
        *("socket.getaddrinfo", "socket.gethostbyname", "socket.getnameinfo"),
    }
)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    # os.open has no mode, which open() always has.
    if event in FORBIDDEN or (event == "open" and arguments[1] is not None):
        raise PermissionError(errno.EPERM, f"{event} inside a container")


def close_all_but(keep: list[int]) -> None:
    previous = 2
    for fd in sorted({fd for fd in keep if fd > 2}):
        if fd > previous + 1:
            syscalls.close_range(previous + 1, fd - 1)
        previous = fd
    syscalls.close_range(previous + 1)


def connect_stdio(fds: tuple[int, int, int]) -> None:
    # Through copies out of the way: the caller's stdout may be its descriptor 0.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
        os.close(copy)


def own_stdio(uid: int, fds: Iterable[int] = range(3)) -> None:
    """Let the program reopen /dev/stdout and its like by name, whoever it runs as."""
    for number in fds:
        about = os.fstat(number)
        null = stat.S_ISCHR(about.st_mode) and about.st_rdev == os.makedev(1, 3)
        if about.st_uid == uid or null:
            continue
        try:
            os.fchown(number, uid, -1)
        except OSError as error:
            # As runc: a descriptor that cannot be given away is still one that can be used.
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise


def give_stdio(fds: Iterable[int], owner: tuple[int, int]) -> None:
    """Outside of a user namespace, whose root can do nothing with what is not its own."""
    for fd in fds:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.fchown(fd, *owner)


def raise_hard_limits(program: Program, pid: int) -> None:
    """Likewise; ``set_limits`` in there has nothing to raise any more."""
    for number, _, hard in program.rlimits:
        soft, current = resource.prlimit(pid, number)
        if current != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > current):
            with suppress(OSError, ValueError):  # set_limits says so
                resource.prlimit(pid, number, (soft, hard))


def set_limits(program: Program) -> None:
    scheduling.apply(program.scheduling)
    for number, soft, hard in program.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError) as error:
            # Python has no errno for a soft limit above the hard one, or a hard one raised.
            code = errno.EINVAL if soft > hard else getattr(error, "errno", None) or errno.EPERM
            raise limit_failure(number, code) from error


def limit_failure(number: int, code: int) -> RuntimeFailure:
    message = "error setting rlimits for ready process: error setting rlimit type "
    return RuntimeFailure("rlimits", f"{message}{number}: {reason(code)}", errno=code)


def install_seccomp(program: Program) -> int | None:
    """The listener's descriptor where there is one."""
    if program.seccomp_bpf is None:
        return None
    try:
        result = syscalls.seccomp_filter(program.seccomp_bpf, program.seccomp_flags)
    except OSError as error:
        raise seccomp_failure(error) from error
    return result if program.wants_listener else None


def seccomp_failure(error: OSError) -> RuntimeFailure:
    return RuntimeFailure.from_os("seccomp", error, "unable to init seccomp")


def restrict(program: Program, identity: users.Identity, procfs: int) -> int | None:
    """What only root can do, before it stops being root; a seccomp listener is returned."""
    if program.lsm:
        lsm.apply(program.lsm, procfs)
    set_limits(program)
    own_stdio(identity.uid)
    if program.process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if not program.wants_listener:
            return None  # execute() does it
    return install_seccomp(program)


def offer_listener(channel: Channel, fd: int | None) -> None:
    """The parent takes it by pidfd_getfd: sendmsg may be what the filter asks about."""
    if fd is not None:
        channel.write("listener", fd=fd)
        channel.expect("taken")
        os.close(fd)


def change_user(program: Program, identity: users.Identity) -> None:
    """From root to the process's user, with the working directory entered on the way."""
    capabilities.limit_bounding(program.masks, program.last_capability)
    entered = _chdir(program.process.cwd, final=False)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise user_failure(error) from error
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    if not entered:
        _chdir(program.process.cwd, final=True)
    _check_cwd()
    capabilities.apply(program.masks, program.last_capability)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # some changes of credentials set it again
    os.umask(umask(program.process))


def umask(process: Process) -> int:
    return 0o022 if process.user.umask is None else process.user.umask


def user_failure(error: OSError) -> RuntimeFailure:
    return RuntimeFailure.from_os("user", error, "unable to setup user")


def _chdir(path: str, *, final: bool) -> bool:
    """As root first, as Docker users expect of a 0700 directory; else as the user, on NFS."""
    try:
        os.chdir(path)
    except OSError as error:
        if isinstance(error, PermissionError) and not final:
            return False
        raise cwd_failure(path, error) from error
    return True


def cwd_failure(path: str, error: OSError) -> RuntimeFailure:
    what = f'chdir to cwd ("{path}") set in config.json failed'
    return RuntimeFailure.from_os("chdir", error, what)


def _check_cwd() -> None:
    """A cwd such as /proc/self/fd/7 must not lead out of the root (CVE-2024-21626)."""
    try:
        inside = syscalls.kernel_cwd().startswith("/")
    except OSError:
        inside = False
    if not inside:
        raise cwd_outside()


def cwd_outside() -> RuntimeFailure:
    message = "current working directory is outside of container mount namespace root"
    return RuntimeFailure("chdir", f"{message} -- possible container breakout detected")


def environment(process: Process, home: str) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in process.env if "=" in entry[1:])
    variables = {name: value for name, _, value in pairs}
    variables.setdefault("HOME", home)
    return variables


def find_program(name: str, path: str) -> str:
    """As Go's exec.LookPath, whose error texts clients match on."""
    if "/" in name:
        try:
            _check_executable(name)
        except OSError as error:
            raise exec_failure(name, error) from error
        return name
    for candidate in candidates(name, path):
        try:
            _check_executable(candidate)
        except OSError:
            continue
        return candidate
    raise not_found(name)


def candidates(name: str, path: str) -> list[str]:
    """Where a ``name`` without a slash is looked for."""
    return [f"{directory or '.'}/{name}" for directory in path.split(":")] if name else []


def not_found(name: str) -> RuntimeFailure:
    text = f'exec: "{name}": executable file not found in $PATH'
    return RuntimeFailure("exec", text, errno=errno.ENOENT, path=name)


def _check_executable(path: str) -> None:
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, "", path)
    syscalls.executable(path)


def exec_failure(name: str, error: OSError) -> RuntimeFailure:
    code = error.errno or 0
    if isinstance(error, IsADirectoryError):
        detail = "is a directory: permission denied"
    elif isinstance(error, PermissionError):
        detail = reason(code)
    else:
        detail = f"stat {name}: {reason(code)}"
    return RuntimeFailure("exec", f'exec: "{name}": {detail}', errno=code, path=name)


@dataclass(frozen=True, slots=True)
class Image:
    """What execve takes, made while there is still room for errors."""

    path: bytes
    argv: syscalls.StringVector
    envp: syscalls.StringVector


def image(process: Process, variables: dict[str, str]) -> Image:
    path = find_program(process.args[0], variables.get("PATH", ""))
    return Image(
        os.fsencode(path),
        syscalls.string_vector([os.fsencode(argument) for argument in process.args]),
        syscalls.string_vector([os.fsencode(f"{k}={v}") for k, v in variables.items()]),
    )


def execute(program: Program, executable: Image, error_fd: int) -> None:
    """The last calls. With no_new_privs the filter may forbid all but execve, so it comes last."""
    first = 3 + program.preserve_fds
    if error_fd > first:
        syscalls.close_range(first, error_fd - 1)
    syscalls.close_range(error_fd + 1)
    if program.process.no_new_privileges and not program.wants_listener:
        install_seccomp(program)
    try:
        syscalls.execve(executable.path, executable.argv, executable.envp)
    except OSError as error:
        name = os.fsdecode(executable.path)
        raise RuntimeFailure.from_os("exec", error, f"exec {name}") from error
