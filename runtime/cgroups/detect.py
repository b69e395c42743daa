"""Library: which cgroup hierarchies this machine has, and where they are mounted.

Asked by the runtime for each container and by lifecycle for ``docker info``; mountinfo is read once
a process, as hierarchies are neither mounted nor unmounted on a running machine.
"""

from __future__ import annotations

import enum
import functools
import os
from dataclasses import dataclass

ROOT = "/sys/fs/cgroup"
# Mount options of a v1 hierarchy that are not controllers.
NOT_CONTROLLERS = frozenset(
    ["rw", "ro", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "none"]
)


class Mode(enum.Enum):
    V1 = "v1"
    HYBRID = "hybrid"  # v1 has the controllers, a v2 tree without controllers exists beside it
    V2 = "v2"

    @property
    def version(self) -> str:
        """What ``docker info`` shows as CgroupVersion."""
        return "2" if self is Mode.V2 else "1"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    mountpoint: str
    controllers: tuple[str, ...]  # empty for v2; a named one has the form "name=systemd"


@dataclass(frozen=True, slots=True)
class Hierarchies:
    v1: tuple[Hierarchy, ...]
    v2: str | None  # mount point of the v2 tree

    @property
    def roots(self) -> dict[str, str]:
        """v1 controller → mount point."""
        return {name: each.mountpoint for each in self.v1 for name in each.controllers}


def parse_mountinfo(text: str) -> Hierarchies:
    v1: dict[tuple[str, ...], Hierarchy] = {}
    v2 = None
    for line in text.splitlines():
        # 35 28 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
        left, _, right = line.partition(" - ")
        fields, filesystem = left.split(), right.split()
        if len(fields) < 5 or not filesystem or not filesystem[0].startswith("cgroup"):
            continue
        mountpoint = fields[4].encode().decode("unicode_escape")
        if filesystem[0] == "cgroup2":
            # The first is the system's own; later ones are other programs' private mounts.
            v2 = v2 or mountpoint
        elif filesystem[0] == "cgroup":
            controllers = tuple(
                option
                for option in filesystem[-1].split(",")
                if option not in NOT_CONTROLLERS and not option.startswith("release_agent=")
            )
            if controllers:
                v1.setdefault(controllers, Hierarchy(mountpoint, controllers))
    return Hierarchies(tuple(v1.values()), v2)


@functools.cache
def hierarchies() -> Hierarchies:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


@functools.cache
def detect() -> Mode:
    found = hierarchies()
    if not any(any("=" not in name for name in each.controllers) for each in found.v1):
        return Mode.V2
    return Mode.HYBRID if found.v2 is not None else Mode.V1


def absolute(cgroup_path: str) -> str:
    """``cgroup_path`` as a clean absolute path below a hierarchy's root.

    It comes from config.json and from ``--cgroup-parent``; ".." must not lead out of the hierarchy.
    """
    clean = os.path.normpath("/" + cgroup_path.lstrip("/"))
    return "" if clean == "/" else clean
