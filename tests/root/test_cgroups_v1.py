"""cgroup v1 and hybrid: what only the separate hierarchies have."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from runtime import cgroups
from runtime.cgroups import CgroupError, ControllerMissing, Mode, files
from runtime.cgroups.detect import Hierarchies, hierarchies
from runtime.cgroups.v1 import V1Manager
from runtime.spec import CPU, BlockIO, DeviceRule, Hugepage, Memory, Pids, Resources, ThrottleDevice

pytestmark = pytest.mark.skipif(cgroups.detect() is Mode.V2, reason="this machine has cgroup v2")
PARENT = "/longshore-test-v1"
DENY_ALL = DeviceRule(allow=False)


@pytest.fixture
def cgroup() -> Iterator[V1Manager]:
    manager = V1Manager(f"{PARENT}/{os.getpid()}-{time.monotonic_ns()}")
    manager.create()
    yield manager
    manager.delete()
    V1Manager(PARENT).delete()


def test_every_hierarchy_gets_the_cgroup(cgroup: V1Manager) -> None:
    assert "memory" in cgroup.paths
    assert all(os.path.isdir(directory) for directory in cgroup.paths.values())
    assert cgroup.clone_fd() is None


def test_the_default_devices_are_exactly_the_list(cgroup: V1Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, *cgroups.DEFAULT_RULES)))
    lines = files.read(cgroup.paths["devices"] + "/devices.list").splitlines()
    assert sorted(lines) == [
        "b *:* m",
        "c *:* m",
        "c 10:200 rwm",
        "c 136:* rwm",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 5:0 rwm",
        "c 5:2 rwm",
    ]


def test_a_missing_controller_is_named() -> None:
    found = Hierarchies(tuple(h for h in hierarchies().v1 if "pids" not in h.controllers), None)
    manager = V1Manager(f"{PARENT}/no-pids", found)
    manager.create()
    try:
        manager.apply(Resources(memory=Memory(limit=1 << 26)))
        with pytest.raises(ControllerMissing, match="cannot set pids limit: the pids cgroup"):
            manager.apply(Resources(pids=Pids(limit=4)))
        with pytest.raises(ControllerMissing, match="hugetlb limit for 2MB pages"):
            manager.apply(Resources(hugepage_limits=(Hugepage("2MB", 1 << 21),)))
    finally:
        manager.delete()
        V1Manager(PARENT).delete()


def test_a_missing_file_is_named(cgroup: V1Manager) -> None:
    with pytest.raises(CgroupError, match=r"this kernel has no blkio\.leaf_weight"):
        cgroup.apply(Resources(block_io=BlockIO(leaf_weight=100)))


def test_throttled_devices(cgroup: V1Manager) -> None:
    device = os.stat("/").st_dev
    major, minor = os.major(device), os.minor(device)
    limit = ThrottleDevice(major, minor, 1 << 20)
    cgroup.apply(Resources(block_io=BlockIO(throttle_write_bps_device=(limit,))))
    text = files.read(cgroup.paths["blkio"] + "/blkio.throttle.write_bps_device")
    assert text.strip() == f"{major}:{minor} {1 << 20}"


def test_shares_out_of_range_are_an_error(cgroup: V1Manager) -> None:
    with pytest.raises(CgroupError, match="the maximum allowed cpu-shares is 262144"):
        cgroup.apply(Resources(cpu=CPU(shares=300_000)))
    with pytest.raises(CgroupError, match="the minimum allowed cpu-shares is 2"):
        cgroup.apply(Resources(cpu=CPU(shares=1)))


def test_unified_needs_v2(cgroup: V1Manager) -> None:
    with pytest.raises(CgroupError, match="unified"):
        cgroup.apply(Resources(unified={"memory.max": "1"}))


def test_swappiness(cgroup: V1Manager) -> None:
    cgroup.apply(Resources(memory=Memory(swappiness=0)))
    assert files.read_number(cgroup.paths["memory"] + "/memory.swappiness") == 0
    with pytest.raises(CgroupError, match="valid range is 0-100"):
        cgroup.apply(Resources(memory=Memory(swappiness=101)))


def test_a_deep_path_gets_its_cpuset_from_above() -> None:
    manager = V1Manager(f"{PARENT}/a/b/c")
    manager.create()
    cpus = files.read(manager.paths["cpuset"] + "/cpuset.cpus")
    V1Manager(PARENT).delete()
    assert cpus.strip() == files.read(hierarchies().roots["cpuset"] + "/cpuset.cpus").strip()
    assert not manager.exists()
