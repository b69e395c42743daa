"""The zygote: what it leaks, what its shims weigh and are called."""

from __future__ import annotations

import os
import re
import signal
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.sealed import is_sealed
from shim.forkserver import TURN_NS
from tests.polling import until
from tests.root.shim_lab import Lab, Shim, alive, receive_all

SHIMS = 50
# kB; a shim with a container has about 4800 of its own, of which 2000 come with the fork.
PRIVATE_LIMIT = 6000


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("shim-zygote"))
    yield lab
    lab.close()


def private_memory(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))


def test_fifty_shims_are_small(lab: Lab) -> None:
    shims = [lab.run("sleep", "1000") for _ in range(SHIMS)]
    assert statistics.median(private_memory(shim.pid) for shim in shims) < PRIVATE_LIMIT
    for shim in shims:
        shim.call("signal", signal=9, all=False)
    for shim in shims:
        assert shim.exit_code() == 137
        shim.gone()


def test_many_starts_at_once(lab: Lab) -> None:
    codes: list[int] = []

    def run(number: int) -> None:
        shim = lab.shim()
        client = shim.attach()
        shim.subscribe()
        shim.start("sh", "-c", f"exit {number}")
        receive_all(client)
        codes.append(shim.exit_code())

    threads = [threading.Thread(target=run, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(24))


def test_nothing_is_left(lab: Lab) -> None:
    """Descriptors and children of the zygote, processes and directories of ended shims."""

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{lab.zygote.pid}/fd"))

    before = descriptors()
    shims: list[Shim] = []
    for n in range(20):
        shims.append(lab.run("sh", "-c", f"sleep 0.01; exit {n}"))
        assert shims[-1].exit_code() == n
    for shim in shims:
        shim.gone()
        assert sorted(each.name for each in shim.directory.iterdir()) == ["exit", "shim.sock"]
    until(lambda: descriptors() <= before, "as many descriptors as before")
    children = Path(f"/proc/{lab.zygote.pid}/task/{lab.zygote.pid}/children")
    until(
        lambda: not [pid for pid in children.read_text().split() if not alive(int(pid))],
        "no zombies of the zygote",
    )


def turn(pid: int) -> int:
    """The length of its turns on the processor, in ns; 0 where the kernel does not tell."""
    return turn_in(Path(f"/proc/{pid}/sched").read_text())


def turn_in(sched: str) -> int:
    found = re.search(r"^se\.slice *: *(\d+)", sched, re.M)
    return int(found[1]) if found else 0


@pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 12) or not turn(os.getpid()),
    reason="the kernel has no turns of different lengths, or does not show them",
)
def test_turns_are_short_for_the_shim_alone(lab: Lab) -> None:
    shim = lab.shim()
    started = shim.start("sleep", "1000")
    assert turn(shim.pid) == TURN_NS
    assert turn(started["pid"]) == turn(os.getpid())
    executed = receive_all(shim.exec("cat", "/proc/self/sched")).decode()
    assert turn_in(executed) == turn(os.getpid())
    shim.call("signal", signal=9, all=False)
    shim.gone()


def test_names_and_seal(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    for pid, name in ((lab.zygote.pid, "zygote"), (shim.pid, f"shim {shim.id[:12]}")):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert title == f"longshore-{name} {lab.exec_root}"
        executable = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
        try:
            assert is_sealed(executable)
        finally:
            os.close(executable)


def test_socket_is_for_root_alone(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    assert (shim.directory / "shim.sock").stat().st_mode & 0o777 == 0o600
    assert shim.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "request_", [{"op": "fork", "id": "../x"}, {"op": "fork"}, {"op": "other", "id": "a" * 64}]
)
def test_bad_request(lab: Lab, request_: dict[str, str]) -> None:
    lab.control.send(request_)
    answer, _ = lab.control.recv()
    assert "error" in answer


def test_end_of_the_socketpair_ends_the_zygote(lab: Lab) -> None:
    shim = lab.run("sleep", "1000")
    lab.control.close()
    assert lab.zygote.wait(30) == 0
    assert alive(shim.pid)
    lab.start_zygote()


def test_ignored_signals_are_not_the_containers(lab: Lab) -> None:
    """Not those that Python and the shim ignore, nor what the engine was started with."""
    ignored = (signal.SIGQUIT, signal.SIGUSR2, signal.SIGRTMIN + 1)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    lab.stop_zygote()
    try:
        lab.start_zygote()
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    script = "grep -E '^Sig(Ign|Blk)' /proc/self/status; sleep 1000"
    shim = lab.run("sh", "-c", script)
    until(lambda: len(shim.log_text().split()) == 4, "the answer")
    executed = receive_all(shim.exec("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"))
    for answer in (shim.log_text(), executed.decode()):
        assert set(answer.split()[1::2]) == {"0" * 16}, answer
    lab.stop_zygote()
    lab.start_zygote()
