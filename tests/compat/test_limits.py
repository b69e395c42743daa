"""Limits that the kernel enforces: proven by what happens, and changed by ``docker update``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine

V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()

# Options, and for cgroup v1 and v2 a file of the container's cgroup and what is in it.
FILES = [
    ("-m 64m", ("memory/memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
    ("-m 64m --memory-swap 96m", ("memory/memory.memsw.limit_in_bytes", "100663296"),
     ("memory.swap.max", "33554432")),
    ("--memory-reservation 32m", ("memory/memory.soft_limit_in_bytes", "33554432"),
     ("memory.low", "33554432")),
    ("-m 64m --memory-swappiness 7", ("memory/memory.swappiness", "7"), None),
    ("--pids-limit 50", ("pids/pids.max", "50"), ("pids.max", "50")),
    ("--cpus 0.5", ("cpu/cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000")),
    ("--cpu-period 50000 --cpu-quota 25000", ("cpu/cpu.cfs_period_us", "50000"),
     ("cpu.max", "25000 50000")),
    ("--cpu-shares 512", ("cpu/cpu.shares", "512"), ("cpu.weight", "59")),
    ("--cpuset-cpus 0", ("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0")),
    ("--cpuset-mems 0", ("cpuset/cpuset.mems", "0"), ("cpuset.mems", "0")),
    ("-m 64m --oom-kill-disable", ("memory/memory.oom_control", "oom_kill_disable 1"), None),
]  # fmt: skip


def read_limit(engine: Engine, container: str, file: str) -> str:
    pid = engine.inspect(container)["State"]["Pid"]
    controller, slash, _ = file.partition("/")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if slash and controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{file.partition('/')[2]}").read_text()
        if not slash and not controllers:
            return Path(f"/sys/fs/cgroup{path}/{file}").read_text()
    raise AssertionError(f"process {pid} has no cgroup of {controller}")


@pytest.mark.parametrize(("options", "v1", "v2"), FILES, ids=lambda item: str(item)[:40])
def test_limit_is_set(
    engine: Engine,
    running: Callable[..., str],
    options: str,
    v1: tuple[str, str],
    v2: tuple[str, str] | None,
) -> None:
    wanted = v2 if V2 else v1
    if wanted is None:
        pytest.skip("cgroup v2 has no such limit")
    container = running(*options.split(), BUSYBOX, "sleep", "1000")
    assert wanted[1] in read_limit(engine, container, wanted[0]).splitlines()


UPDATES = [
    ("-m 96m --memory-swap 128m", ("memory/memory.limit_in_bytes", "100663296"),
     ("memory.max", "100663296")),
    ("--memory-reservation 32m", ("memory/memory.soft_limit_in_bytes", "33554432"),
     ("memory.low", "33554432")),
    ("--pids-limit 60", ("pids/pids.max", "60"), ("pids.max", "60")),
    ("--pids-limit -1", ("pids/pids.max", "max"), ("pids.max", "max")),
    ("--cpus 0.3", ("cpu/cpu.cfs_quota_us", "30000"), ("cpu.max", "30000 100000")),
    ("--cpu-shares 300", ("cpu/cpu.shares", "300"), ("cpu.weight", "39")),
    ("--cpuset-cpus 0", ("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0")),
]  # fmt: skip


def test_updates(engine: Engine, running: Callable[..., str]) -> None:
    container = running("--pids-limit", "50", BUSYBOX, "sleep", "1000")
    for options, v1, v2 in UPDATES:
        wanted = v2 if V2 else v1
        engine.docker("update", *options.split(), container)
        if wanted is not None:
            assert wanted[1] in read_limit(engine, container, wanted[0]).splitlines(), options


def test_memory_limit_kills(engine: Engine, name: str) -> None:
    before = int(time.time()) - 1
    done = engine.docker(
        *("run", "--name", name, "-m", "16m", "--memory-swap", "16m", BUSYBOX),
        *("sh", "-c", "head -c 100m /dev/zero | tail -c 90m >/dev/null"),
        check=False,
    )
    assert done.returncode == 137
    assert engine.inspect(name)["State"]["OOMKilled"]
    events = engine.docker(
        *("events", "--since", str(before), "--until", str(int(time.time()) + 1)),
        *("--filter", f"container={name}", "--format", "{{.Action}}"),
    ).stdout.split()
    assert "oom" in events
    assert events.index("oom") < events.index("die")


def test_pids_limit_stops_a_fork(engine: Engine) -> None:
    done = engine.docker(
        *("run", "--rm", "--pids-limit", "5", BUSYBOX, "sh", "-c"),
        "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done",
        check=False,
    )
    assert "can't fork: Resource temporarily unavailable" in done.stderr


def test_cpu_quota_throttles(engine: Engine, running: Callable[..., str]) -> None:
    container = running("--cpus", "0.1", BUSYBOX, "sh", "-c", "while :; do :; done")
    file = "cpu.stat" if V2 else "cpu/cpu.stat"

    def throttled() -> bool:
        lines = dict(line.split() for line in read_limit(engine, container, file).splitlines())
        return int(lines["nr_throttled"]) > 2

    polling.until(throttled, "the container to be throttled")


def test_read_only_path_refuses(engine: Engine) -> None:
    done = engine.docker(
        "run", "--rm", BUSYBOX, "sh", "-c", "echo 1 >/proc/sys/kernel/panic", check=False
    )
    assert "Read-only file system" in done.stderr


def test_block_io_throttle(engine: Engine, running: Callable[..., str]) -> None:
    if V2 or not Path("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device").exists():
        pytest.skip("this kernel has no block I/O throttling on cgroup v1")
    disk = next(Path("/sys/block").iterdir()).name
    container = running("--device-read-bps", f"/dev/{disk}:1mb", BUSYBOX, "sleep", "1000")
    assert "1048576" in read_limit(engine, container, "blkio/blkio.throttle.read_bps_device")


def test_limit_that_the_kernel_refuses(engine: Engine, name: str) -> None:
    if not V2 and not Path("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device").exists():
        pytest.skip("this kernel has no block I/O throttling on cgroup v1")
    done = engine.docker(
        *("run", "--name", name, "--device-read-bps", "/dev/tty:1mb", BUSYBOX, "true"),
        check=False,
    )
    assert done.returncode == 125
    value, file = (
        ("rbps=1048576", "io.max") if V2 else ("1048576", "blkio.throttle.read_bps_device")
    )
    container = engine.inspect(name)["Id"]
    assert (
        "unable to start container process: error during container init: error setting cgroup "
        f'config for procHooks process: failed to write "5:0 {value}": write '
    ) in done.stderr
    assert f"/{container}/{file}: no such device\n" in done.stderr
