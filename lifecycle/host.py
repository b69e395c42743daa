"""Library of lifecycle: what this kernel can do, asked once at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.cgroups import Mode, detect

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Host:
    cgroup_version: int
    memory_limit: bool
    swap_limit: bool
    cpu_quota: bool
    cpu_shares: bool
    cpuset: bool
    pids_limit: bool
    oom_kill_disable: bool
    seccomp: bool
    apparmor: bool

    @property
    def warnings(self) -> list[str]:
        """As ``docker info`` prints them."""
        lacking = {
            "memory limit": self.memory_limit,
            "swap limit": self.swap_limit,
            "cpu cfs quota": self.cpu_quota,
            "cpu shares": self.cpu_shares,
            "cpuset": self.cpuset,
            "pids limit": self.pids_limit,
        }
        return [f"WARNING: No {name} support" for name, there in lacking.items() if not there]


def look() -> Host:
    seccomp = os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
    apparmor = os.path.exists("/sys/kernel/security/apparmor")
    if detect() is Mode.V2:
        controllers = (CGROUP / "cgroup.controllers").read_text().split()
        return Host(
            cgroup_version=2,
            memory_limit="memory" in controllers,
            swap_limit="memory" in controllers and os.path.exists("/proc/swaps"),
            cpu_quota="cpu" in controllers,
            cpu_shares="cpu" in controllers,
            cpuset="cpuset" in controllers,
            pids_limit="pids" in controllers,
            oom_kill_disable=False,
            seccomp=seccomp,
            apparmor=apparmor,
        )
    return Host(
        cgroup_version=1,
        memory_limit=(CGROUP / "memory/memory.limit_in_bytes").exists(),
        swap_limit=(CGROUP / "memory/memory.memsw.limit_in_bytes").exists(),
        cpu_quota=(CGROUP / "cpu/cpu.cfs_quota_us").exists(),
        cpu_shares=(CGROUP / "cpu/cpu.shares").exists(),
        cpuset=(CGROUP / "cpuset/cpuset.cpus").exists(),
        pids_limit=(CGROUP / "pids").exists(),
        oom_kill_disable=(CGROUP / "memory/memory.oom_control").exists(),
        seccomp=seccomp,
        apparmor=apparmor,
    )
