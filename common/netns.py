"""Library: the network namespace of the calling thread; the shim and the tests use it.

A namespace change is one thread's, so only single-threaded code (the shim) or code that stays
on its thread may enter one. Python's own os.setns needs 3.12, hence the one libc call here; the
runtime has its own, larger set of system calls and is not imported by what lies below it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.setns.restype = ctypes.c_int


def open_of(pid: int) -> int:
    """A descriptor of the network namespace of ``pid``; the caller owns it."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


@contextmanager
def entered(namespace: int) -> Iterator[None]:
    """Be in ``namespace``, and afterwards back; sockets opened inside stay in it."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(own)


def write_sysctls(sysctls: Mapping[str, str]) -> None:
    """Set ``net/...`` keys (written as paths) of the namespace that the caller is in.

    A missing IPv6 key is no failure: with ``ipv6.disable=1`` the kernel has none of them, and
    there is nothing left to switch off.
    """
    for key, value in sysctls.items():
        if not key.startswith("net/") or ".." in key:
            raise ValueError(f"sysctl {key}: not below net/")
        if not value.isprintable():
            raise ValueError(f"sysctl {key}: value with control characters")
        try:
            fd = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if key.startswith("net/ipv6/"):
                continue
            raise
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
