"""Library of lifecycle: what this kernel can do, asked once at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lifecycle import apparmor
from runtime.cgroups import Mode, detect, hierarchies

CGROUP2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Host:
    cgroup_version: int
    memory_limit: bool
    swap_limit: bool
    memory_reservation: bool
    memory_swappiness: bool
    kernel_memory_tcp: bool
    oom_kill_disable: bool
    cpu_quota: bool
    cpu_shares: bool
    cpu_realtime: bool
    cpuset: bool
    cpus: str  # a list such as "0-3,6", as the next; empty if unknown
    mems: str
    pids_limit: bool
    blkio: frozenset[str]  # the files of the blkio controller; on v2 all that v1 may have
    seccomp: bool
    apparmor: bool

    @property
    def warnings(self) -> list[str]:
        """As ``docker info`` prints them; none of what cgroup v2 never has."""
        unified = self.cgroup_version == 2
        lacking = {
            "memory limit": self.memory_limit,
            "swap limit": self.swap_limit,
            "kernel memory TCP limit": self.kernel_memory_tcp or unified,
            "oom kill disable": self.oom_kill_disable or unified,
            "cpu cfs quota": self.cpu_quota,
            "cpu cfs period": self.cpu_quota,
            "cpu shares": self.cpu_shares,
            "cpuset": self.cpuset,
            **{
                v2 if unified else v1: file in self.blkio
                for file, (v1, v2) in BLKIO_FILES.items()
                if unified or v1
            },
        }
        return [f"WARNING: No {name} support" for name, there in lacking.items() if not there]


# Files of v1's controller, and the names of what they do in warnings on v1 and on v2. Weights are
# nothing to warn of on v1: kernels since 5.0 have none.
BLKIO_FILES = {
    "blkio.weight": ("", "io.weight"),
    "blkio.weight_device": ("", "io.weight (per device)"),
    "blkio.throttle.read_bps_device": ("blkio throttle.read_bps_device", "io.max (rbps)"),
    "blkio.throttle.write_bps_device": ("blkio throttle.write_bps_device", "io.max (wbps)"),
    "blkio.throttle.read_iops_device": ("blkio throttle.read_iops_device", "io.max (riops)"),
    "blkio.throttle.write_iops_device": ("blkio throttle.write_iops_device", "io.max (wiops)"),
}


def look() -> Host:
    return _look_v2() if detect() is Mode.V2 else _look_v1()


def _look_v2() -> Host:
    controllers = (CGROUP2 / "cgroup.controllers").read_text().split()
    memory = "memory" in controllers
    return Host(
        cgroup_version=2,
        memory_limit=memory,
        swap_limit=memory and _swap_is_counted(),
        memory_reservation=memory,
        memory_swappiness=False,
        kernel_memory_tcp=False,
        oom_kill_disable=False,
        cpu_quota="cpu" in controllers,
        cpu_shares="cpu" in controllers,
        cpu_realtime=False,
        cpuset="cpuset" in controllers,
        cpus=_read(CGROUP2 / "cpuset.cpus.effective"),
        mems=_read(CGROUP2 / "cpuset.mems.effective"),
        pids_limit="pids" in controllers,
        blkio=frozenset(BLKIO_FILES) if "io" in controllers else frozenset(),
        seccomp=_seccomp(),
        apparmor=apparmor.in_kernel(),
    )


def _swap_is_counted() -> bool:
    """Some kernels count swap only with swapaccount=1; the root cgroup has no limits to show it."""
    own = (Path("/proc/self/cgroup").read_text().splitlines() or ["0::/"])[-1].partition("::")[2]
    for directory in (Path(f"{CGROUP2}{own}"), *CGROUP2.iterdir()):
        if (directory / "memory.max").exists():
            return (directory / "memory.swap.max").exists()
    return os.path.exists("/proc/swaps")


def _look_v1() -> Host:
    roots = {name: Path(mountpoint) for name, mountpoint in hierarchies().roots.items()}

    def has(controller: str, name: str = "") -> bool:
        return controller in roots and (roots[controller] / name).exists()

    cpuset = roots.get("cpuset", Path("/nonexistent"))
    return Host(
        cgroup_version=1,
        memory_limit=has("memory"),
        swap_limit=has("memory", "memory.memsw.limit_in_bytes"),
        memory_reservation=has("memory", "memory.soft_limit_in_bytes"),
        memory_swappiness=has("memory", "memory.swappiness"),
        kernel_memory_tcp=has("memory", "memory.kmem.tcp.limit_in_bytes"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        cpu_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_realtime=has("cpu", "cpu.rt_period_us"),
        cpuset=has("cpuset"),
        cpus=_read(cpuset / "cpuset.cpus"),
        mems=_read(cpuset / "cpuset.mems"),
        pids_limit=has("pids"),
        blkio=frozenset(name for name in BLKIO_FILES if has("blkio", name)),
        seccomp=_seccomp(),
        apparmor=apparmor.in_kernel(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _seccomp() -> bool:
    return os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
