"""Library: control groups v1, hybrid and v2, as OCI resources.

``manager(path)`` gives the implementation that fits this machine; all of them are a ``Manager``.
Nothing here outlives a call: no threads, no cached descriptors.
"""

from __future__ import annotations

from runtime.cgroups.detect import Mode, detect
from runtime.cgroups.devices import DEFAULT_RULES
from runtime.cgroups.errors import CgroupError, ControllerMissing
from runtime.cgroups.interface import Manager, OOMWatch, join_self
from runtime.cgroups.stats import Stats
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager

__all__ = [
    "DEFAULT_RULES",
    "CgroupError",
    "ControllerMissing",
    "Manager",
    "Mode",
    "OOMWatch",
    "Stats",
    "detect",
    "join_self",
    "manager",
]


def manager(cgroup_path: str) -> Manager:
    """The cgroup at ``cgroup_path``, such as ``/longshore/<id>``; it need not exist yet."""
    return V2Manager(cgroup_path) if detect() is Mode.V2 else V1Manager(cgroup_path)
