"""cgroup v2: what needs no controller also runs on a hybrid system, the rest in tests.vm."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from runtime import cgroups, syscalls
from runtime.cgroups import CgroupError, ControllerMissing, Mode, bpf, files
from runtime.cgroups.detect import hierarchies
from runtime.cgroups.v2 import V2Manager, empty_root
from runtime.spec import (
    CPU,
    BlockIO,
    DeviceRule,
    InterfacePriority,
    Memory,
    Network,
    Pids,
    Resources,
)

MIB = 1 << 20
PARENT = "/longshore-test-v2"
DENY_ALL = DeviceRule(allow=False)
NULL = DeviceRule(allow=True, type="c", major=1, minor=3, access="rw")
needs_controllers = pytest.mark.skipif(
    cgroups.detect() is not Mode.V2, reason="cgroup v2 has no controllers here: run tests.vm"
)


@pytest.fixture
def cgroup() -> Iterator[V2Manager]:
    if hierarchies().v2 is None:
        pytest.skip("no cgroup2 mount on this machine")
    manager = V2Manager(f"{PARENT}/{os.getpid()}-{time.monotonic_ns()}")
    manager.create()
    yield manager
    manager.kill_all()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    manager.delete()
    assert not manager.exists()
    V2Manager(PARENT).delete()


def clone_into(manager: V2Manager, body: Callable[[], int]) -> int:
    fd = manager.clone_fd()
    assert fd is not None
    pid, pidfd = syscalls.clone(0, cgroup_fd=fd)
    if pid == 0:
        status = 99
        try:
            status = body()
        finally:
            os._exit(status)
    os.close(fd)
    os.close(pidfd)
    return pid


def run_in(manager: V2Manager, body: Callable[[], int]) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(clone_into(manager, body), 0)[1])


def pause() -> int:
    signal.pause()
    return 0


def can_open(path: str) -> int:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        return error.errno or 1
    return 0


def attached(manager: V2Manager) -> list[int]:
    fd = os.open(manager.directory, os.O_RDONLY)
    try:
        return bpf.attached(fd)
    finally:
        os.close(fd)


def test_a_clone_starts_in_the_cgroup(cgroup: V2Manager) -> None:
    pid = clone_into(cgroup, pause)
    assert cgroup.pids() == [pid]
    cgroup.kill_all()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert cgroup.pids() == []


def test_an_exec_goes_where_init_is(cgroup: V2Manager) -> None:
    inner = V2Manager(cgroup.path + "/init")
    inner.create()
    init = clone_into(inner, pause)
    (fd,) = cgroup.join_fds(init)
    assert os.readlink(f"/proc/self/fd/{fd}") == inner.directory + "/cgroup.procs"
    os.close(fd)
    (fd,) = cgroup.join_fds()
    assert os.readlink(f"/proc/self/fd/{fd}") == cgroup.directory + "/cgroup.procs"
    os.close(fd)


def test_the_device_program_decides_and_is_replaced(cgroup: V2Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, NULL)))
    first = attached(cgroup)
    assert len(first) == 1
    assert run_in(cgroup, lambda: can_open("/dev/null")) == 0
    assert run_in(cgroup, lambda: can_open("/dev/zero")) == errno.EPERM
    zero = DeviceRule(allow=True, type="c", major=1, minor=5, access="r")
    cgroup.apply(Resources(devices=(DENY_ALL, NULL, zero)))
    assert len(attached(cgroup)) == 1
    assert attached(cgroup) != first
    assert run_in(cgroup, lambda: can_open("/dev/zero")) == 0
    assert run_in(cgroup, lambda: can_open("/dev/random")) == errno.EPERM


def test_a_policy_of_many_devices_is_accepted_by_the_verifier(cgroup: V2Manager) -> None:
    rules = [
        DeviceRule(allow=True, type=kind, major=1 << 31 | major, minor=minor, access=access)
        for kind in "bc"
        for major in range(60)
        for minor in (None, 7)
        for access in ("r", "rwm")
    ]
    cgroup.apply(Resources(devices=(DENY_ALL, *rules, NULL)))
    assert run_in(cgroup, lambda: can_open("/dev/null")) == 0
    assert run_in(cgroup, lambda: can_open("/dev/zero")) == errno.EPERM


def test_processes_leave_a_delegated_root(cgroup: V2Manager) -> None:
    pid = clone_into(cgroup, pause)
    empty_root(cgroup.directory)
    assert files.read(cgroup.directory + "/cgroup.procs") == ""
    assert files.read(cgroup.directory + "/init/cgroup.procs").split() == [str(pid)]
    before = files.read("/proc/self/cgroup")
    empty_root(hierarchies().v2 or "")
    assert files.read("/proc/self/cgroup") == before  # the real root


def test_freeze_stops_and_thaw_resumes(cgroup: V2Manager) -> None:
    clone_into(cgroup, pause)
    cgroup.freeze()
    assert cgroup.frozen()
    assert "frozen 1" in files.read(cgroup.directory + "/cgroup.events")
    cgroup.thaw()
    assert not cgroup.frozen()


def test_kill_all_without_cgroup_kill(cgroup: V2Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    write = files.write

    def without_kill(path: str, value: str) -> None:
        if path.endswith("cgroup.kill"):
            raise FileNotFoundError(errno.ENOENT, "missing", path)
        write(path, value)

    monkeypatch.setattr(files, "write", without_kill)
    pid = clone_into(cgroup, pause)
    cgroup.kill_all()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_network_classes_and_realtime_are_refused(cgroup: V2Manager) -> None:
    with pytest.raises(ControllerMissing, match="net_cls"):
        cgroup.apply(Resources(network=Network(class_id=5)))
    with pytest.raises(ControllerMissing, match="net_cls"):
        cgroup.apply(Resources(network=Network(priorities=(InterfacePriority("eth0", 1),))))
    with pytest.raises(CgroupError, match="realtime"):
        cgroup.apply(Resources(cpu=CPU(realtime_runtime=5000)))


@pytest.mark.skipif(cgroups.detect() is Mode.V2, reason="all controllers are there")
def test_a_missing_controller_is_named(cgroup: V2Manager) -> None:
    with pytest.raises(ControllerMissing, match="pids limit: the pids cgroup controller"):
        cgroup.apply(Resources(pids=Pids(limit=5)))
    with pytest.raises(CgroupError, match='controller "memory" not available'):
        cgroup.apply(Resources(unified={"memory.high": "max"}))


@needs_controllers
def test_memory_and_swap_are_separate(cgroup: V2Manager) -> None:
    cgroup.apply(Resources(memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=8 * MIB)))
    assert files.read(cgroup.directory + "/memory.max").strip() == str(64 * MIB)
    assert files.read(cgroup.directory + "/memory.low").strip() == str(8 * MIB)
    if os.path.exists(cgroup.directory + "/memory.swap.max"):
        assert files.read(cgroup.directory + "/memory.swap.max").strip() == str(32 * MIB)


@needs_controllers
def test_check_before_update_refuses_a_limit_below_the_usage(cgroup: V2Manager) -> None:
    pid = clone_into(cgroup, pause)
    with pytest.raises(CgroupError, match="rejecting memory limit 4096 <= usage"):
        cgroup.apply(Resources(memory=Memory(limit=4096, check_before_update=True)))
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)


@needs_controllers
def test_cpu_shares_become_a_weight(cgroup: V2Manager) -> None:
    cgroup.apply(Resources(cpu=CPU(shares=1024, quota=50_000, period=200_000)))
    assert files.read(cgroup.directory + "/cpu.weight").strip() == "100"
    assert files.read(cgroup.directory + "/cpu.max").split() == ["50000", "200000"]
    cgroup.apply(Resources(cpu=CPU(period=100_000)))
    assert files.read(cgroup.directory + "/cpu.max").split() == ["50000", "100000"]
    cgroup.apply(Resources(cpu=CPU(quota=-1)))
    assert files.read(cgroup.directory + "/cpu.max").split() == ["max", "100000"]


@needs_controllers
def test_unified_values_are_written_line_by_line(cgroup: V2Manager) -> None:
    cgroup.apply(Resources(unified={"memory.high": "1048576000", "pids.max": "77"}))
    assert cgroup.stats().pids.limit == 77
    with pytest.raises(CgroupError, match=r'unable to set unified resource "memory\.nope"'):
        cgroup.apply(Resources(unified={"memory.nope": "1"}))
    with pytest.raises(CgroupError, match='controller "nope" not available'):
        cgroup.apply(Resources(unified={"nope.max": "1"}))


@needs_controllers
def test_io_weight(cgroup: V2Manager) -> None:
    cgroup.apply(Resources(block_io=BlockIO(weight=500)))
    name = "io.bfq.weight" if os.path.exists(cgroup.directory + "/io.bfq.weight") else "io.weight"
    assert files.read(f"{cgroup.directory}/{name}").split() == ["default", "4950"]
