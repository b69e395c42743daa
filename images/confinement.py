"""Unpacker: give up everything that unpacking a hostile archive does not need.

Called once in a freshly forked, single-threaded child. Afterwards its root is the layer's directory
in a mount namespace of its own, it has no network, no /proc, and of root's capabilities only those
that creating files of any owner takes. Nothing may be imported any more: ``sys.path`` is emptied,
since its directories would now be the archive's.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
NR_pivot_root = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_LAST = 63

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP (linux/capability.h)
CREATING_FILES = (0, 1, 3, 4, 27, 31)

ADDRESS_SPACE = 1 << 30
CPU_SECONDS = 3600

_libc = ctypes.CDLL(None, use_errno=True)


def confine(directory: int) -> None:
    """Make ``directory`` the root and drop the rest; the descriptor is closed."""
    _call("unshare", CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    # The descriptor belongs to the old namespace, whose mounts cannot be bound: look it up again.
    path = os.fsencode(os.readlink(f"/proc/self/fd/{directory}"))
    wanted = os.fstat(directory)
    os.close(directory)
    _call("mount", path, path, None, MS_BIND, None)
    os.chdir(path)
    if not os.path.samestat(os.stat(b"."), wanted):
        raise OSError("the layer's directory was exchanged")
    _call("mount", None, b".", None, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NODEV, None)
    if NR_pivot_root is None:
        raise OSError(f"unpacking is not supported on {os.uname().machine}")
    # pivot_root(".", ".") stacks the old root on the new one, where it can be unmounted at once.
    _call("syscall", ctypes.c_long(NR_pivot_root), b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    _limit()
    _drop_capabilities(CREATING_FILES)
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()


def prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    _call("prctl", option, ctypes.c_ulong(argument), zero, zero, zero)


def _limit() -> None:
    os.umask(0)
    for kind, limit in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _drop_capabilities(keep: tuple[int, ...]) -> None:
    for capability in range(CAP_LAST + 1):
        if capability not in keep:
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except OSError:  # EINVAL: past the last one that this kernel has
                break
    bits = sum(1 << capability for capability in keep)
    header = _Header(_LINUX_CAPABILITY_VERSION_3, 0)
    sets = (_Set * 2)(_Set(bits, bits, 0), _Set(0, 0, 0))
    _call("capset", ctypes.byref(header), ctypes.byref(sets))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
