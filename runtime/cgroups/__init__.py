"""Library: control groups v1, hybrid and v2, as OCI resources.

``manager(path)`` gives the implementation that fits this machine; all of them are a ``Manager``.
Nothing here outlives a call: no threads, no cached descriptors.
"""

from __future__ import annotations

from runtime.cgroups.detect import ROOT, Mode, detect, hierarchies
from runtime.cgroups.devices import DEFAULT_RULES, with_default_devices
from runtime.cgroups.errors import CgroupError, ControllerMissing
from runtime.cgroups.interface import Manager, OOMWatch, join_self
from runtime.cgroups.stats import Stats
from runtime.cgroups.v1 import V1Manager
from runtime.cgroups.v2 import V2Manager, empty_root

__all__ = [
    "DEFAULT_RULES",
    "CgroupError",
    "ControllerMissing",
    "Manager",
    "Mode",
    "OOMWatch",
    "Stats",
    "detect",
    "hierarchies",
    "join_self",
    "leave_root",
    "manager",
    "with_default_devices",
]


def manager(cgroup_path: str) -> Manager:
    """The cgroup at ``cgroup_path``, such as ``/longshore/<id>``; it need not exist yet."""
    return V2Manager(cgroup_path) if detect() is Mode.V2 else V1Manager(cgroup_path)


def leave_root() -> None:
    """For an engine that starts: it may itself be in a container, with cgroup v2."""
    if detect() is Mode.V2:
        empty_root(hierarchies().v2 or ROOT)
