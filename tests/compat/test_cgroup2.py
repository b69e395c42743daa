"""What only cgroup v2 has, or does otherwise than v1, as clients see it: runs in tests.vm.

Limits that both have are in test_limits.py, which runs there too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.compat.test_limits import read_limit
from tests.engine import BUSYBOX, Engine
from tests.probes import requires

pytestmark = requires("cgroup2")
Runner = Callable[..., str]

# The second has a queue of requests, without which the kernel does not weigh a device's users.
DISK, QUEUE = "/dev/ram0", "/dev/loop0"
MIB = 1 << 20


def inside(engine: Engine, container: str, file: str) -> str:
    return engine.docker("exec", container, "cat", f"/sys/fs/cgroup/{file}").stdout.strip()


def stats(engine: Engine, container: str) -> Any:
    return engine.api("GET", f"/containers/{container}/stats?stream=0&one-shot=1").json()


def test_info(engine: Engine) -> None:
    found = engine.api("GET", "/info").json()
    assert (found["CgroupVersion"], found["CgroupDriver"]) == ("2", "cgroupfs")
    assert "name=cgroupns" in found["SecurityOptions"]
    limits = ("MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet")
    assert all(found[name] for name in (*limits, "PidsLimit"))
    assert found["OomKillDisable"] is False
    assert "KernelMemoryTCP" not in found
    assert not [line for line in found["Warnings"] or () if "WARNING: No" in line]
    assert "Cgroup Version: 2" in engine.docker("info").stdout


def test_limits_seen_from_inside(engine: Engine, running: Runner) -> None:
    container = running(
        *("-m", "64m", "--memory-swap", "96m", "--pids-limit", "50", "--cpus", "0.5"),
        *("--cpuset-cpus", "0", "--cpu-shares", "512", BUSYBOX, "sleep", "1000"),
    )
    files = {"memory.max": "67108864", "memory.swap.max": "33554432", "pids.max": "50"}
    files |= {"cpu.max": "50000 100000", "cpuset.cpus.effective": "0", "cpu.weight": "59"}
    assert {file: inside(engine, container, file) for file in files} == files
    engine.docker("update", "--cpu-shares", "2048", "-m", "80m", "--memory-swap", "-1", container)
    changed = {"memory.max": str(80 * MIB), "memory.swap.max": "max", "cpu.weight": "174"}
    assert {file: inside(engine, container, file) for file in changed} == changed


@pytest.mark.parametrize("mode", ["", "host"])
def test_cgroup_namespace(engine: Engine, running: Runner, mode: str) -> None:
    options = ("--cgroupns", mode) if mode else ()
    container = running(*options, BUSYBOX, "sleep", "1000")
    found = engine.inspect(container)
    assert found["HostConfig"]["CgroupnsMode"] == (mode or "private")
    shown = engine.docker("exec", container, "cat", "/proc/self/cgroup").stdout.strip()
    assert shown == (f"0::/longshore/{found['Id']}" if mode else "0::/")
    made = engine.docker("exec", container, "mkdir", "/sys/fs/cgroup/x", check=False)
    assert "Read-only file system" in made.stderr


def test_privileged_may_have_cgroups_of_its_own(engine: Engine, running: Runner) -> None:
    container = running("--privileged", BUSYBOX, "sleep", "1000")
    assert engine.inspect(container)["HostConfig"]["CgroupnsMode"] == "private"
    engine.docker("exec", container, "mkdir", "/sys/fs/cgroup/child")
    script = "echo $$ > /sys/fs/cgroup/child/cgroup.procs && cat /proc/self/cgroup"
    assert engine.docker("exec", container, "sh", "-c", script).stdout.strip() == "0::/child"


def test_pause_freezes(engine: Engine, running: Runner) -> None:
    container = running(BUSYBOX, "sh", "-c", "while :; do :; done")
    engine.docker("pause", container)
    assert read_limit(engine, container, "cgroup.freeze").strip() == "1"
    assert "frozen 1" in read_limit(engine, container, "cgroup.events")
    used = read_limit(engine, container, "cpu.stat").splitlines()[0]
    assert engine.docker("ps", "--filter", "status=paused", "-q").stdout
    assert read_limit(engine, container, "cpu.stat").splitlines()[0] == used
    engine.docker("unpause", container)
    assert read_limit(engine, container, "cgroup.freeze").strip() == "0"


@pytest.fixture
def weighed() -> Iterator[None]:
    """The kernel's I/O cost model is at work for QUEUE."""
    switch = Path("/sys/fs/cgroup/io.cost.qos")
    if Path(QUEUE).exists():
        switch.write_text("7:0 enable=1")
    yield
    if Path(QUEUE).exists():
        switch.write_text("7:0 enable=0")


@pytest.mark.usefixtures("weighed")
def test_block_io(engine: Engine, running: Runner) -> None:
    if not Path(DISK).exists() or not Path(QUEUE).exists():
        pytest.skip(f"no {DISK} or {QUEUE} here: modprobe brd loop")
    device = os.stat(DISK).st_rdev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    container = running(
        *("--device", DISK, "--device-write-bps", f"{DISK}:1mb", "--device-read-iops"),
        *(f"{DISK}:500", "--blkio-weight", "300", "--blkio-weight-device", f"{QUEUE}:500"),
        *(BUSYBOX, "sleep", "1000"),
    )
    assert f"{numbers} rbps=max wbps=1048576 riops=500 wiops=max" in read_limit(
        engine, container, "io.max"
    )
    weights = read_limit(engine, container, "io.weight").splitlines()
    assert weights == ["default 2930", "7:0 4950"]
    command = ("dd", "if=/dev/zero", f"of={DISK}", "bs=1M", "count=2", "oflag=direct")
    done = engine.docker("exec", container, "sh", "-c", f"time {' '.join(command)}")
    (real,) = [line.split()[2] for line in done.stderr.splitlines() if line.startswith("real")]
    assert float(real.removesuffix("s")) > 0.9
    tables = stats(engine, container)["blkio_stats"]
    written = [
        entry["value"]
        for entry in tables.pop("io_service_bytes_recursive")
        if (entry["major"], entry["minor"], entry["op"]) == (os.major(device), 0, "write")
    ]
    assert written == [2 * MIB]
    assert set(tables.values()) == {None}
    engine.docker("update", "--blkio-weight", "10", container)
    assert "default 1" in read_limit(engine, container, "io.weight").splitlines()


def test_stats(engine: Engine, running: Runner) -> None:
    container = running("-m", "64m", "--cpus", "0.5", BUSYBOX, "sleep", "1000")
    found = stats(engine, container)
    memory = found["memory_stats"]
    assert set(memory) <= {"usage", "stats", "limit", "failcnt"}
    assert 0 < memory["usage"] < memory["limit"] == 64 * MIB
    assert len(memory["stats"]) == 31
    assert {"anon", "file", "inactive_file", "workingset_refault"} <= set(memory["stats"])
    assert "percpu_usage" not in found["cpu_stats"]["cpu_usage"]
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert found["pids_stats"] == {"current": 1, "limit": 2**64 - 1}
    engine.docker("update", "--pids-limit", "20", container)
    assert stats(engine, container)["pids_stats"] == {"current": 1, "limit": 20}
    shown = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
    assert shown.stdout.strip().endswith("/ 64MiB")


def test_what_v2_lacks_is_discarded(engine: Engine, name: str) -> None:
    body = {
        "Image": BUSYBOX,
        "Cmd": ["true"],
        "HostConfig": {
            "Memory": 64 * MIB,
            "OomKillDisable": True,
            "MemorySwappiness": 7,
            "KernelMemoryTCP": 64 * MIB,
        },
    }
    made = engine.api("POST", f"/containers/create?name={name}", body).json()
    lacks = "Your kernel does not support "
    assert made["Warnings"] == [
        f"{lacks}memory swappiness capabilities or the cgroup is not mounted. "
        "Memory swappiness discarded.",
        f"{lacks}OomKillDisable. OomKillDisable discarded.",
    ]
    host = engine.inspect(name)["HostConfig"]
    assert (host["OomKillDisable"], host["MemorySwappiness"]) == (None, None)
    engine.docker("start", "-a", name)


def test_oom_of_a_child_is_counted(engine: Engine, running: Runner) -> None:
    """The kernel kills in the container; its first process goes on, and it is no end by OOM."""
    hungry = "head -c 100m /dev/zero | tail -c 90m >/dev/null"
    container = running(
        *("-m", "16m", "--memory-swap", "16m", BUSYBOX, "sh", "-c"),
        f"({hungry}); echo went on; exec sleep 1000",
    )
    polling.until(lambda: "went on" in engine.docker("logs", container).stdout, "its end")
    assert "oom_kill 1" in read_limit(engine, container, "memory.events")
    assert stats(engine, container)["memory_stats"]["failcnt"] > 0
    assert engine.status(container) == "running"
