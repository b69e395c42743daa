"""Library of lifecycle: makes the host forward packets, and remembers that it was this engine.

A host that did not forward for anybody before shall not become a router for its neighbours: the
firewall then drops what is neither from nor for a container, also after a restart of the engine.
The marks are files below the exec root, which is gone after a reboot like the setting itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lifecycle.network_records import NetworkRecord
from networking import bridge

MARK = "forwarding"


def enable(exec_root: Path, *, wanted: bool) -> bool:
    """Whether the host forwards IPv4 for others than containers."""
    mark = exec_root / MARK
    if wanted and bridge.enable_forwarding():
        mark.touch()
    return not mark.exists()


def enable6(exec_root: Path, networks: Iterable[NetworkRecord], *, wanted: bool) -> bool:
    """Likewise for IPv6, which is switched on only once a network has it."""
    mark = exec_root / f"{MARK}6"
    if wanted and any(record.enable_ipv6 for record in networks) and bridge.enable_forwarding6():
        mark.touch()
    return not mark.exists()
