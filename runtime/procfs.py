"""Library: a procfs that nobody can have mounted anything over, and writes to it.

The parent makes one, detached, when sysctls or security labels are to be written; the child uses
it by descriptor. /proc/sys/net and the IPC and UTS sysctls follow the namespaces of whoever
writes, whichever procfs it is.
"""

from __future__ import annotations

import os

from runtime import syscalls
from runtime.errors import RuntimeFailure, reason

# Sysctls that belong to a namespace; all others are the host's.
IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        *("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"),
        *("msg_next_id", "sem_next_id", "shm_next_id"),
    )
)


def detached() -> int:
    context = syscalls.fsopen("proc")
    try:
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        nothing_runs = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        return syscalls.fsmount(context, nothing_runs | syscalls.MOUNT_ATTR_NOEXEC)
    finally:
        os.close(context)


def sysctl_path(key: str) -> str:
    """ "net.ipv4.conf.eth0/1.x" → "sys/net/ipv4/conf/eth0.1/x", as sysctl(8) reads it."""
    first = next((letter for letter in key if letter in "./"), ".")
    swapped = key if first == "/" else key.translate(str.maketrans("./", "/."))
    return f"sys/{swapped}"


def check_sysctl(key: str, value: str, namespaces: frozenset[str]) -> None:
    """Refuse what would change the host; ``namespaces`` are those that the container owns."""
    parts = sysctl_path(key).split("/")[1:]
    dotted = ".".join(parts)
    refused = f'sysctl "{key}" '
    if dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
        needed, text = "ipc", "is not allowed in the hosts ipc namespace"
    elif parts[0] == "net":
        needed, text = "network", "not allowed in host network namespace"
    elif dotted == "kernel.domainname":
        needed, text = "uts", "not allowed in host uts namespace"
    elif dotted == "kernel.hostname":
        needed, text = "", 'is not allowed as it conflicts with the OCI "hostname" field'
    else:
        needed, text = "", "is not in a separate kernel namespace"
    if needed not in namespaces:
        raise RuntimeFailure("config", refused + text)
    if {"", ".", ".."} & set(parts) or not value.isprintable():
        raise RuntimeFailure("config", f"{refused}= {value!r} is not valid")


def write_sysctl(procfs: int, key: str, value: str) -> None:
    path = sysctl_path(key)
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS
    try:
        fd = syscalls.openat2(procfs, path, os.O_WRONLY, resolve=resolve)
    except OSError as error:
        message = f"open sysctl {key} file: open /proc/{path}: {reason(error.errno or 0)}"
        raise RuntimeFailure("sysctl", message, errno=error.errno or 0, path=path) from error
    try:
        os.write(fd, value.encode())
    except OSError as error:
        message = f'failed to write sysctl {key} = "{value}": {reason(error.errno or 0)}'
        raise RuntimeFailure("sysctl", message, errno=error.errno or 0, path=path) from error
    finally:
        os.close(fd)
