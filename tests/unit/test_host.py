"""What lifecycle says of a kernel that lacks something."""

from __future__ import annotations

import dataclasses

from lifecycle.host import BLKIO_FILES, Host

FULL = Host(
    cgroup_version=1,
    memory_limit=True,
    swap_limit=True,
    memory_reservation=True,
    memory_swappiness=True,
    kernel_memory_tcp=True,
    oom_kill_disable=True,
    cpu_quota=True,
    cpu_shares=True,
    cpu_realtime=True,
    cpuset=True,
    cpus="0-1",
    mems="0",
    pids_limit=True,
    blkio=frozenset(BLKIO_FILES),
    seccomp=True,
    apparmor=False,
)


def test_no_warning_of_what_is_there() -> None:
    assert FULL.warnings == []


def test_no_warning_of_what_v2_never_has() -> None:
    v2 = dataclasses.replace(
        FULL, cgroup_version=2, kernel_memory_tcp=False, oom_kill_disable=False
    )
    assert v2.warnings == []


def test_warnings_on_v1() -> None:
    lacking = dataclasses.replace(FULL, oom_kill_disable=False, cpu_quota=False, blkio=frozenset())
    assert lacking.warnings == [
        f"WARNING: No {name} support"
        for name in (
            *("oom kill disable", "cpu cfs quota", "cpu cfs period"),
            *("blkio throttle.read_bps_device", "blkio throttle.write_bps_device"),
            *("blkio throttle.read_iops_device", "blkio throttle.write_iops_device"),
        )
    ]


def test_warnings_on_v2() -> None:
    lacking = dataclasses.replace(FULL, cgroup_version=2, swap_limit=False, blkio=frozenset())
    throttles = (f"io.max ({what})" for what in ("rbps", "wbps", "riops", "wiops"))
    names = ("swap limit", "io.weight", "io.weight (per device)", *throttles)
    assert lacking.warnings == [f"WARNING: No {name} support" for name in names]
