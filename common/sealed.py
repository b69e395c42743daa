"""Library: the interpreter runs from a sealed copy in memory, once for the zygote and for the
runtime.

A process that enters a container can be reached through /proc/<pid>/exe from inside; were that
the host's python, a container could overwrite it (CVE-2019-5736). A sealed memfd can be neither
written nor grown by anybody. Children that are forked share it, so that it costs nothing per
container.
"""

from __future__ import annotations

import fcntl
import os
import sys

_MFD_EXEC = 0x10  # linux/memfd.h, since Linux 6.3
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK = 1 << 30


def ensure_sealed() -> None:
    """Return at once in the sealed copy; else become it, with the same arguments and environment.

    Descriptors that shall survive must be inheritable, and nothing else of the process does.
    """
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if is_sealed(source):
            return
        copy = _sealed_copy(source)
    finally:
        os.close(source)
    # The real path as argv[0] is how the copy finds its library and its virtual environment.
    os.execve(copy, [sys.executable, *sys.orig_argv[1:]], os.environ)


def is_sealed(fd: int) -> bool:
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False  # not a file in memory


def _sealed_copy(source: int) -> int:
    copy = executable_file("longshore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    while os.sendfile(copy, source, None, _CHUNK):
        pass
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy


def executable_file(name: str, flags: int) -> int:
    """An empty file in memory that may be executed, whatever vm.memfd_noexec's default is."""
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:  # before Linux 6.3, where all may
        return os.memfd_create(name, flags)
