"""Library: the five capability sets of a process.

The names are resolved in the parent, so that an unknown one fails before anything exists; the
masks are applied by the container's child side, bounding set first, because dropping from it needs
CAP_SETPCAP.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from runtime import syscalls
from runtime.spec import Capabilities

# linux/capability.h, in the order of their numbers.
NAMES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Masks:
    bounding: int
    effective: int
    inheritable: int
    permitted: int
    ambient: int


@functools.cache
def last() -> int:
    """The highest capability of this kernel."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def mask(names: Iterable[str]) -> int:
    """Unknown names and those that this kernel lacks are left out, as the specification allows."""
    value = 0
    for name in names:
        number = NUMBERS.get(name.upper())
        if number is not None and number <= last():
            value |= 1 << number
    return value


def masks(capabilities: Capabilities | None) -> Masks:
    """A process without a "capabilities" object gets none at all."""
    given = capabilities or Capabilities()
    return Masks(
        bounding=mask(given.bounding),
        effective=mask(given.effective),
        inheritable=mask(given.inheritable),
        permitted=mask(given.permitted),
        ambient=mask(given.ambient),
    )


def limit_bounding(wanted: Masks, last_capability: int) -> None:
    syscalls.drop_from_bounding(numbers(~wanted.bounding, last_capability))


def apply(wanted: Masks, last_capability: int) -> None:
    syscalls.capset(wanted.effective, wanted.permitted, wanted.inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in raised_ambient(wanted, last_capability):
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def raised_ambient(wanted: Masks, last_capability: int) -> list[int]:
    """The kernel refuses what is not also permitted and inheritable; runc only warns of it."""
    return numbers(wanted.ambient & wanted.permitted & wanted.inheritable, last_capability)


def numbers(mask_: int, last_capability: int) -> list[int]:
    return [each for each in range(last_capability + 1) if mask_ >> each & 1]
