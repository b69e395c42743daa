"""Library of lifecycle: which capabilities a container gets, by Docker's rules.

``--cap-add`` and ``--cap-drop`` name capabilities in any case, with or without CAP_, or ALL. Of
"all" only those are meant that this engine has itself: it may run in a container.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from common.errors import InvalidArgument
from runtime.capabilities import NAMES

KNOWN = tuple(f"CAP_{name}" for name in NAMES)

# moby v28.5.2 oci/caps/defaults.go, in its order: clients see it in config.json only.
DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
ALL = "ALL"


@functools.cache
def available() -> tuple[str, ...]:
    """The capabilities of this process, in the kernel's order."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                mask = int(line.split()[1], 16)
                return tuple(name for bit, name in enumerate(KNOWN) if mask >> bit & 1)
    return KNOWN


def normalize(names: Iterable[str], field: str) -> list[str]:
    """Canonical names; ``field`` is CapAdd or CapDrop, for the error."""
    result = []
    for given in names:
        name = given.upper()
        if name != ALL:
            name = name if name.startswith("CAP_") else "CAP_" + name
            if name not in KNOWN:
                raise InvalidArgument(f'invalid {field}: unknown capability: "{name}"')
            if name not in available():
                raise InvalidArgument(
                    f"invalid {field}: capability not supported by your kernel or not available"
                    f' in the current environment: "{name}"'
                )
        result.append(name)
    return result


def adjust(adds: Iterable[str], drops: Iterable[str], privileged: bool = False) -> list[str]:
    """The container's capabilities. The names are checked for privileged containers too."""
    added, dropped = normalize(adds, "CapAdd"), normalize(drops, "CapDrop")
    if privileged:
        return list(available())
    if ALL in added:
        return [name for name in available() if name not in dropped]
    if ALL in dropped:
        return list(dict.fromkeys(added))
    kept = [name for name in DEFAULT if name not in dropped]
    return list(dict.fromkeys([*kept, *added]))
