"""Library: the system calls that Python 3.11 does not have, and nothing else.

Used by both sides of a container's creation; importing it is all the preparation they need, so
that no library is looked up inside a container. Every wrapper raises OSError that names the call.
The numbers of calls since Linux 5.1 are the same on all architectures; the older ones are
tabulated.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_uint,
    c_uint32,
    c_uint64,
    c_ulong,
    c_void_p,
    sizeof,
)
from typing import Any

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/mount.h
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
OPEN_TREE_CLONE = 1
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
MNT_DETACH = 2

# linux/fcntl.h
AT_FDCWD = -100
AT_EACCESS = 0x200
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# asm-generic/mman-common.h, asm-generic/signal-defs.h
PROT_READ, PROT_EXEC, MAP_PRIVATE = 1, 4, 2
MADV_POPULATE_WRITE = 23
SIG_SETMASK = 2

# linux/magic.h
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
DEVPTS_SUPER_MAGIC = 0x1CD1
PROC_SUPER_MAGIC = 0x9FA0

# linux/close_range.h, linux/prctl.h, linux/sched.h, linux/securebits.h, linux/seccomp.h,
# linux/keyctl.h
CLOSE_RANGE_CLOEXEC = 1 << 2
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECBIT_NO_SETUID_FIXUP = 1 << 2
SCHED_FLAG_RESET_ON_FORK = 0x01
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1 << 0
SECCOMP_FILTER_FLAG_LOG = 1 << 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
KEYCTL_JOIN_SESSION_KEYRING = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# asm-generic/unistd.h: alike everywhere
NR_open_tree = 428
NR_move_mount = 429
NR_fsopen = 430
NR_fsconfig = 431
NR_fsmount = 432
NR_clone3 = 435
NR_close_range = 436
NR_openat2 = 437
NR_pidfd_getfd = 438
NR_faccessat2 = 439
NR_mount_setattr = 442

_GENERIC = {
    "clone": 220,
    "getcwd": 17,
    "ioprio_set": 30,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "keyctl": 219,
    "sched_setattr": 274,
    "seccomp": 277,
}
_X86_64 = {
    "clone": 56,
    "getcwd": 79,
    "ioprio_set": 251,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "keyctl": 250,
    "sched_setattr": 314,
    "seccomp": 317,
}
NR = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC}.get(platform.machine(), {})


class clone_args(Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack"),
            *("stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


class open_how(Structure):
    _fields_ = [("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64)]


class mount_attr(Structure):
    _fields_ = [(name, c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class sched_attr(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("sched_policy", c_uint32),
        ("sched_flags", c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", c_uint32),
        ("sched_runtime", c_uint64),
        ("sched_deadline", c_uint64),
        ("sched_period", c_uint64),
    ]


class sock_fprog(Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", c_void_p)]


class statfs_head(Structure):
    """The first field, which is all we need, and room for the rest."""

    _fields_ = [("f_type", c_long), ("rest", c_char * 248)]


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = c_long
# With the interpreter's lock held: a fork must not let go of it on one side only.
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.syscall.restype = c_long
_python = ctypes.pythonapi
for _name in ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child"):
    getattr(_python, _name).restype = None
for _name, _types in {
    "unshare": [c_int],
    "setns": [c_int, c_int],
    "pivot_root": [c_char_p, c_char_p],
    "mount": [c_char_p, c_char_p, c_char_p, c_ulong, c_char_p],
    "umount2": [c_char_p, c_int],
    "sethostname": [c_char_p, ctypes.c_size_t],
    "setdomainname": [c_char_p, ctypes.c_size_t],
    "prctl": [c_int, c_ulong, c_ulong, c_ulong, c_ulong],
    "setfsuid": [c_uint32],
    "setfsgid": [c_uint32],
    "capset": [c_void_p, c_void_p],
    "fstatfs": [c_int, POINTER(statfs_head)],
    "personality": [c_ulong],
    "execve": [c_char_p, POINTER(c_char_p), POINTER(c_char_p)],
    "mmap": [c_void_p, ctypes.c_size_t, c_int, c_int, c_int, c_long],
}.items():
    getattr(_libc, _name).argtypes = _types

_libc.mmap.restype = c_void_p


def _prototype(*types: Any) -> Any:
    """syscall(2) with fixed types: half the cost of converting each argument by hand."""
    return ctypes.CFUNCTYPE(c_long, c_long, *types, use_errno=True)(("syscall", _libc))


_close_range = _prototype(c_uint, c_uint, c_uint)
_openat2 = _prototype(c_int, c_char_p, c_void_p, c_ulong)
_fsopen = _prototype(c_char_p, c_uint)
_fsconfig = _prototype(c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _prototype(c_int, c_uint, c_uint)
_open_tree = _prototype(c_int, c_char_p, c_uint)
_move_mount = _prototype(c_int, c_char_p, c_int, c_char_p, c_uint)
_rt_sigaction = _prototype(c_int, c_void_p, c_void_p, c_ulong)
_rt_sigprocmask = _prototype(c_int, c_void_p, c_void_p, c_ulong)
_mount_setattr = _prototype(c_int, c_char_p, c_uint, c_void_p, c_ulong)


def check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", path)
    return result


def _number(call: str) -> int:
    if call not in NR:
        raise OSError(errno.ENOSYS, f"{call}: number unknown on {platform.machine()}")
    return NR[call]


def clone(flags: int, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """fork() with clone3's flags: (pid, pidfd) in the parent, (0, -1) in the child.

    For single-threaded callers. The C library's fork is bypassed, which costs the child a stale
    thread id in its own thread block, of use to nobody but pthread_kill; Python's own bookkeeping
    is done as os.fork does it.
    """
    pidfd = c_int(-1)
    args = clone_args(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
    if not flags & CLONE_PARENT:
        args.exit_signal = 17  # SIGCHLD, without which plain wait() does not see the child
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    _python.PyOS_BeforeFork()
    pid = _locked.syscall(c_long(NR_clone3), byref(args), c_ulong(sizeof(args)))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, -1
    code = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone3: {os.strerror(code)}")
    os.set_inheritable(pidfd.value, False)
    return pid, pidfd.value


def clone_sibling() -> tuple[int, int]:
    """``clone(CLONE_PARENT)`` by the older call, which seccomp filters can look into and allow.

    Without Python's bookkeeping, which costs a millisecond: for a child that only executes.
    """
    pidfd = c_int(-1)
    flags = c_ulong(CLONE_PARENT | CLONE_PIDFD)
    nothing = c_void_p(None)
    pid = _locked.syscall(c_long(_number("clone")), flags, nothing, byref(pidfd), nothing, nothing)
    return check(pid, "clone"), pidfd.value


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of another process's descriptor; it is close-on-exec."""
    result = _syscall(c_long(NR_pidfd_getfd), pidfd, fd, c_uint(0))
    return check(result, "pidfd_getfd")


def unshare(flags: int) -> None:
    check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    check(_libc.setns(fd, flags), "setns")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0) -> int:
    return check(_libc.prctl(option, arg2, arg3, arg4, 0), "prctl")


def parent_death_signal() -> int:
    found = c_int()
    prctl(PR_GET_PDEATHSIG, ctypes.addressof(found))
    return found.value


def setfsids(uid: int, gid: int) -> None:
    """Of the calling thread; neither call can fail."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    check(_close_range(NR_close_range, first, last, flags), "close_range")


def populate(address: int, length: int) -> None:
    """Write faults for a whole private mapping at once; what cannot be is left (Linux 5.14)."""
    _libc.madvise(c_void_p(address), c_ulong(length), MADV_POPULATE_WRITE)


def openat2(dir_fd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path)
    # EAGAIN: a rename elsewhere made ".." uncertain; openat2(2) says to try again.
    for _ in range(128):
        fd = _openat2(NR_openat2, dir_fd, raw, byref(how), sizeof(how))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return check(fd, "openat2", path)


def fsopen(filesystem: str) -> int:
    return check(_fsopen(NR_fsopen, filesystem.encode(), FSOPEN_CLOEXEC), f"fsopen {filesystem}")


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    raw_key = None if key is None else os.fsencode(key)
    raw_value = None if value is None else os.fsencode(value)
    check(_fsconfig(NR_fsconfig, fd, command, raw_key, raw_value, 0), "fsconfig")


def fsmount(fd: int, attributes: int = 0) -> int:
    return check(_fsmount(NR_fsmount, fd, FSMOUNT_CLOEXEC, attributes), "fsmount")


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    fd = _open_tree(NR_open_tree, dir_fd, os.fsencode(path), flags | os.O_CLOEXEC)
    return check(fd, "open_tree", path)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount onto what ``target_fd`` stands for, whatever its path is by now."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    check(_move_mount(NR_move_mount, mount_fd, b"", target_fd, b"", flags), "move_mount")


def mount_setattr(
    fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    attributes = mount_attr(set_, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    arguments = (fd, b"", flags, byref(attributes), sizeof(attributes))
    check(_mount_setattr(NR_mount_setattr, *arguments), "mount_setattr")


def fstatfs_type(fd: int) -> int:
    buffer = statfs_head()
    check(_libc.fstatfs(fd, byref(buffer)), "fstatfs")
    return int(buffer.f_type)


def pivot_root(new_root: str, put_old: str) -> None:
    check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)


def mount(source: str, target: str, filesystem: str, flags: int, data: str) -> None:
    """For mounts on the host only; inside a root file system, descriptors say what is meant."""
    arguments = [os.fsencode(text) for text in (source, target, filesystem)]
    check(_libc.mount(*arguments, flags, os.fsencode(data)), "mount", target)


def umount(path: str, flags: int = 0) -> None:
    check(_libc.umount2(os.fsencode(path), flags), "umount2", path)


def sethostname(name: str) -> None:
    raw = os.fsencode(name)
    check(_libc.sethostname(raw, len(raw)), "sethostname")


def setdomainname(name: str) -> None:
    raw = os.fsencode(name)
    check(_libc.setdomainname(raw, len(raw)), "setdomainname")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    header, data = capset_arguments(effective, permitted, inheritable)
    check(_libc.capset(byref(header), byref(data)), "capset")


def capset_arguments(
    effective: int, permitted: int, inheritable: int
) -> tuple[ctypes.Array[c_uint32], ctypes.Array[c_uint32]]:
    header = (c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (c_uint32 * 6)()
    for half in (0, 1):
        for offset, mask in enumerate((effective, permitted, inheritable)):
            data[half * 3 + offset] = mask >> (32 * half) & 0xFFFFFFFF
    return header, data


def seccomp_filter(bpf: bytes, flags: int) -> int:
    """Install the filter; the answer is the listener's descriptor if the flags ask for one."""
    code = ctypes.create_string_buffer(bpf, len(bpf))
    program = sock_fprog(len(bpf) // 8, ctypes.addressof(code))
    number = c_long(_number("seccomp"))
    result = _syscall(number, c_uint(SECCOMP_SET_MODE_FILTER), c_uint(flags), byref(program))
    return check(result, "seccomp")


def kernel_cwd() -> str:
    """getcwd(2) itself: the C library hides "(unreachable)" by searching for a path that fits."""
    buffer = ctypes.create_string_buffer(4096)
    check(_syscall(c_long(_number("getcwd")), buffer, c_ulong(4096)), "getcwd")
    return os.fsdecode(buffer.value)


def map_executable(fd: int, length: int) -> int:
    """The address of a read-only mapping of a file, whose content can be called."""
    address = _libc.mmap(None, length, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0)
    if address in (None, c_void_p(-1).value):
        check(-1, "mmap")
    return int(address)


def change_signal_mask(mask: int) -> int:
    """Block the signals whose bits are set, and no others; the mask that was in force before.

    A tenth of the time of signal.pthread_sigmask, which makes sets of enumerations.
    """
    wanted, before = c_uint64(mask), c_uint64()
    number = _number("rt_sigprocmask")
    check(_rt_sigprocmask(number, SIG_SETMASK, byref(wanted), byref(before), 8), "rt_sigprocmask")
    return before.value


_DEFAULT_ACTION = byref((c_ulong * 4)())
# Also the two that the C library keeps to itself.
changed_signals: Iterable[int] = range(1, 65)


def default_signals() -> None:
    """SIG_DFL for ``changed_signals``: all, unless the process knows which others are at that.

    A tight loop: signal.signal() converts to enumerations, which took 0.4 ms in all.
    """
    number = _number("rt_sigaction")
    for each in changed_signals:
        _rt_sigaction(number, each, _DEFAULT_ACTION, None, 8)  # EINVAL for SIGKILL and SIGSTOP


def drop_from_bounding(capabilities: list[int]) -> None:
    prctl_ = _libc.prctl
    for each in capabilities:
        if prctl_(PR_CAPBSET_DROP, each, 0, 0, 0) < 0:
            check(-1, "prctl PR_CAPBSET_DROP")


def join_session_keyring() -> None:
    number = c_long(_number("keyctl"))
    check(_syscall(number, c_int(KEYCTL_JOIN_SESSION_KEYRING), None), "keyctl")


def ioprio_set(value: int) -> None:
    check(_syscall(c_long(_number("ioprio_set")), 1, 0, value), "ioprio_set")


def sched_setattr(attributes: sched_attr) -> None:
    attributes.size = sizeof(attributes)
    number = c_long(_number("sched_setattr"))
    check(_syscall(number, 0, byref(attributes), c_uint(0)), "sched_setattr")


def personality(value: int) -> None:
    check(_libc.personality(value), "personality")


def executable(path: str) -> None:
    """Raise unless the effective user may execute ``path``."""
    raw = c_char_p(os.fsencode(path))
    number = c_long(NR_faccessat2)
    check(_syscall(number, AT_FDCWD, raw, os.X_OK, AT_EACCESS), "faccessat2", path)


StringVector = ctypes.Array[c_char_p]


def string_vector(strings: list[bytes]) -> StringVector:
    """What execve takes; made beforehand, so that the call itself allocates nothing."""
    return (c_char_p * (len(strings) + 1))(*strings, None)


def execve(path: bytes, argv: StringVector, envp: StringVector) -> None:
    check(_libc.execve(path, argv, envp), "execve", os.fsdecode(path))
