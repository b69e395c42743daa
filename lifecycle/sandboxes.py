"""Library of lifecycle: network namespaces that are mounted while plugins have interfaces in them.

<exec root>/netns/<container id> is the mount, which keeps the namespace although its last process
has ended. mountinfo says what there is of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from ipaddress import ip_address, ip_network
from pathlib import Path

from common.errors import InternalError
from common.netlink import IFNAMSIZ
from common.paths import Paths
from lifecycle import hostmounts


def path(paths: Paths, container_id: str) -> Path:
    return paths.netns / container_id


def hold(where: Path, pid: int) -> None:
    """Mount the namespace of ``pid``; once more is no failure."""
    if is_held(where):
        return
    where.parent.mkdir(mode=0o700, exist_ok=True)
    where.touch(mode=0o400)
    hostmounts.mount(f"/proc/{pid}/ns/net", where, "", "bind")


def is_held(where: Path) -> bool:
    return where.exists() and hostmounts.is_mounted(where)


def drop(where: Path) -> None:
    if where.exists():
        hostmounts.unmount(where)
        where.unlink(missing_ok=True)


def held(paths: Paths) -> list[str]:
    """The containers whose namespaces are mounted, or were to be."""
    try:
        return os.listdir(paths.netns)
    except FileNotFoundError:
        return []


def free_name(prefix: str, taken: Collection[str]) -> str:
    """As in Docker: the prefix and the first number that gives a new name."""
    if not prefix or len(prefix) >= IFNAMSIZ - 2 or "/" in prefix or not prefix.isprintable():
        raise InternalError(f"failed to set interface name: invalid prefix {prefix!r}")
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def contains(subnet: str, address: str) -> bool:
    return ip_address(address) in ip_network(subnet)
