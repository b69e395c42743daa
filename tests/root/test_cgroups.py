"""Cgroups against the running kernel, whichever version it has; also run in tests.vm for v2."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from runtime import cgroups
from runtime.cgroups import CgroupError, Manager, Mode, with_default_devices
from runtime.cgroups.interface import subtree
from runtime.spec import CPU, DeviceRule, Memory, Pids, Resources
from tests.descriptors import descriptors
from tests.polling import until

MIB = 1 << 20
PARENT = "/longshore-test"
DENY_ALL = DeviceRule(allow=False)
NULL = DeviceRule(allow=True, type="c", major=1, minor=3, access="rw")
ZERO = DeviceRule(allow=True, type="c", major=1, minor=5, access="r")


@pytest.fixture
def cgroup() -> Iterator[Manager]:
    manager = cgroups.manager(f"{PARENT}/{os.getpid()}-{time.monotonic_ns()}")
    open_before = descriptors()
    manager.create()
    yield manager
    manager.kill_all()
    reap_all()
    manager.delete()
    assert not manager.exists()
    cgroups.manager(PARENT).delete()
    assert descriptors() <= open_before


def reap_all() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def spawn(manager: Manager, body: Callable[[], int | None]) -> int:
    """A child that joins the cgroup as a container's init does and exits with ``body``'s result."""
    fds = manager.join_fds()
    joined, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            cgroups.join_self(fds)
            os.close(report)
            status = body() or 0
        finally:
            os._exit(status)
    for fd in (*fds, report):
        os.close(fd)
    assert os.read(joined, 1) == b""
    os.close(joined)
    return pid


def pause() -> None:
    while True:
        signal.pause()


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_memory_limit_kills_and_is_reported(cgroup: Manager) -> None:
    cgroup.apply(Resources(memory=Memory(limit=16 * MIB, swap=16 * MIB)))
    watch = cgroup.watch_oom()
    assert watch is not None
    poll = select.poll()
    poll.register(watch.fd, select.POLLIN)
    assert poll.poll(0) == []

    def use_memory() -> int:
        return len(bytearray(b"x") * (64 * MIB)) and 1

    assert exit_status(spawn(cgroup, use_memory)) == -signal.SIGKILL
    assert poll.poll(5000)
    watch.drain()
    until(lambda: cgroup.oom_kill_count() == 1, "the kill to be counted")
    os.close(watch.fd)
    stats = cgroup.stats()
    assert stats.memory.limit == 16 * MIB
    assert stats.memory.max_usage > 8 * MIB


def test_pids_limit_stops_a_fork(cgroup: Manager) -> None:
    cgroup.apply(Resources(pids=Pids(limit=2)))

    def fork_twice() -> int:
        try:
            for _ in range(2):
                if os.fork() == 0:
                    pause()
        except BlockingIOError as error:
            return int(error.errno == errno.EAGAIN) and 42
        return 1

    assert exit_status(spawn(cgroup, fork_twice)) == 42
    assert cgroup.stats().pids.limit == 2


def test_pids_limit_can_be_lifted(cgroup: Manager) -> None:
    cgroup.apply(Resources(pids=Pids(limit=5)))
    cgroup.apply(Resources(pids=Pids(limit=-1)))
    assert cgroup.stats().pids.limit is None


def test_cpu_quota_throttles(cgroup: Manager) -> None:
    cgroup.apply(Resources(cpu=CPU(quota=5_000, period=50_000)))

    def spin() -> None:
        while True:
            pass

    pid = spawn(cgroup, spin)
    until(lambda: cgroup.stats().cpu.throttled_periods >= 2, "throttling")
    os.kill(pid, signal.SIGKILL)
    exit_status(pid)
    cpu = cgroup.stats().cpu
    assert cpu.periods >= cpu.throttled_periods >= 2
    assert cpu.throttled_time > 0
    assert cpu.total > 0


def try_open(path: str, flags: int = os.O_RDONLY) -> int:
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return error.errno or 1
    return 0


def test_devices_are_denied_until_an_update_allows_them(cgroup: Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, NULL)))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/null", os.O_RDWR))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero"))) == errno.EPERM
    cgroup.apply(Resources(devices=(DENY_ALL, NULL, ZERO)))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/null"))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero"))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero", os.O_RDWR))) == errno.EPERM
    cgroup.apply(Resources(devices=(DENY_ALL, ZERO)))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/null"))) == errno.EPERM


def test_an_update_without_devices_keeps_them(cgroup: Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, NULL)))
    cgroup.apply(Resources(pids=Pids(limit=100)))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero"))) == errno.EPERM


def test_allow_all_with_one_device_taken_out(cgroup: Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, NULL)))
    allow_all = DeviceRule(allow=True, type="a", access="rwm")
    no_zero = DeviceRule(allow=False, type="c", major=1, minor=5, access="w")
    cgroup.apply(Resources(devices=(allow_all, no_zero)))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/random"))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero"))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero", os.O_RDWR))) == errno.EPERM


def test_default_rules_allow_mknod_but_not_use(cgroup: Manager) -> None:
    cgroup.apply(Resources(devices=(DENY_ALL, *cgroups.DEFAULT_RULES)))
    node = f"/tmp/longshore-test-{os.getpid()}"

    def make_disk() -> int:
        os.mknod(node, 0o600 | 0o060000, os.makedev(8, 0))
        return try_open(node)

    try:
        assert exit_status(spawn(cgroup, make_disk)) == errno.EPERM
        assert os.path.exists(node)
    finally:
        os.unlink(node)


def test_a_container_without_rules_gets_the_default_devices_only(cgroup: Manager) -> None:
    cgroup.apply(with_default_devices(Resources()))
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/zero"))) == 0
    assert exit_status(spawn(cgroup, lambda: try_open("/dev/kmsg"))) == errno.EPERM


def test_frozen_processes_do_not_answer(cgroup: Manager) -> None:
    ours, theirs = os.pipe()[::-1], os.pipe()

    def echo() -> None:
        while True:
            os.write(theirs[1], os.read(ours[1], 1))

    pid = spawn(cgroup, echo)
    os.write(ours[0], b"1")
    assert os.read(theirs[0], 1) == b"1"
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    os.write(ours[0], b"2")
    assert select.select([theirs[0]], [], [], 0.1)[0] == []
    cgroup.thaw()
    assert not cgroup.frozen()
    assert os.read(theirs[0], 1) == b"2"
    os.kill(pid, signal.SIGKILL)
    for fd in (*ours, *theirs):
        os.close(fd)


def test_kill_all_gets_processes_that_keep_forking(cgroup: Manager) -> None:
    cgroup.apply(Resources(pids=Pids(limit=40)))

    def multiply() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            # Nobody gives up at the limit: they would die out before the test has looked.
            with suppress(BlockingIOError):
                os.fork()
            time.sleep(0.001)

    for _ in range(3):
        spawn(cgroup, multiply)
    until(lambda: len(cgroup.pids()) > 5, "some forks")
    cgroup.kill_all()
    reap_all()
    until(lambda: cgroup.pids() == [], "an empty cgroup")


def test_kill_all_reaches_nested_and_frozen_cgroups(cgroup: Manager) -> None:
    child = cgroups.manager(cgroup.path + "/inner")
    child.create()
    pid = spawn(child, pause)
    assert cgroup.pids() == [pid]
    cgroup.freeze()
    cgroup.kill_all()
    assert exit_status(pid) == -signal.SIGKILL
    cgroup.delete()
    assert not child.exists()


def test_delete_waits_for_dying_processes(cgroup: Manager) -> None:
    pid = spawn(cgroup, pause)
    cgroup.kill_all()
    exit_status(pid)
    cgroup.delete()
    assert not cgroup.exists()
    cgroup.delete()
    cgroup.kill_all()


def test_delete_of_a_populated_cgroup_fails(
    cgroup: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cgroups.interface.DELETE_SECONDS", 0.05)
    spawn(cgroup, pause)
    with pytest.raises(OSError, match=cgroup.path) as caught:
        cgroup.delete()
    assert caught.value.errno == errno.EBUSY
    # On v1 the process has not lost the limits that were set before the failure.
    assert cgroup.exists()
    cgroup.kill_all()


def test_a_populated_cgroup_is_not_taken_over(cgroup: Manager) -> None:
    spawn(cgroup, pause)
    with pytest.raises(CgroupError, match=r"not empty: 1 process"):
        cgroups.manager(cgroup.path).create()


def test_an_empty_cgroup_is_taken_over(cgroup: Manager) -> None:
    cgroups.manager(cgroup.path).create()


def test_join_moves_a_running_process(cgroup: Manager) -> None:
    pid = os.fork()
    if pid == 0:
        pause()
    cgroup.join(pid)
    assert cgroup.pids() == [pid]
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        joined = [line for line in file if line.rstrip().endswith(":" + cgroup.path)]
    assert len(joined) == len(set(cgroup.paths.values()))


def test_memory_updates_in_both_directions(cgroup: Manager) -> None:
    for limit in (32, 128, 16):
        cgroup.apply(Resources(memory=Memory(limit=limit * MIB, swap=2 * limit * MIB)))
        assert cgroup.stats().memory.limit == limit * MIB
    cgroup.apply(Resources(memory=Memory(limit=-1)))
    assert cgroup.stats().memory.limit is None


def test_cpuset_and_shares(cgroup: Manager) -> None:
    cgroup.apply(Resources(cpu=CPU(cpus="0", mems="0", shares=512)))
    pid = spawn(cgroup, lambda: 0 if os.sched_getaffinity(0) == {0} else 1)
    assert exit_status(pid) == 0


def test_an_impossible_cpuset_names_the_file(cgroup: Manager) -> None:
    with pytest.raises(OSError, match=r"cpuset\.cpus"):
        cgroup.apply(Resources(cpu=CPU(cpus="4095")))


def test_a_burst_above_the_old_quota_is_set_with_the_new(cgroup: Manager) -> None:
    cgroup.apply(Resources(cpu=CPU(quota=10_000, period=100_000)))
    cgroup.apply(Resources(cpu=CPU(quota=60_000, burst=50_000)))


def test_stats_of_an_idle_process(cgroup: Manager) -> None:
    spawn(cgroup, pause)
    until(lambda: cgroup.stats().cpu.total > 0, "some CPU time")
    stats = cgroup.stats()
    assert stats.pids.current == 1
    assert stats.memory.limit is None
    assert stats.memory.stat
    if cgroups.detect() is not Mode.V2:
        assert len(stats.cpu.per_cpu) >= (os.cpu_count() or 1)


def test_a_path_through_a_file_fails_and_leaves_nothing(cgroup: Manager) -> None:
    manager = cgroups.manager(cgroup.path + "/cgroup.procs/x")
    with pytest.raises(OSError, match=r"cgroup\.procs"):
        manager.create()
    assert not manager.exists()


def test_subtree_lists_parents_before_children(cgroup: Manager) -> None:
    directory = next(iter(cgroup.paths.values()))
    os.makedirs(directory + "/a/b")
    assert list(subtree(directory)) == [directory, directory + "/a", directory + "/a/b"]
