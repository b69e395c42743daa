"""What a running container costs in memory beside its own processes, and the process that saves it.

A shim has most of its memory in common with the zygote; what it writes to is its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from tests.polling import until
from tests.root.shim_lab import Lab, Shim

CONTAINERS = 50  # as many as the target speaks of; pages that all share weigh less then
LIMIT_KB = 3072


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    instance = Lab(tmp_path_factory.mktemp("lab"))
    yield instance
    instance.close()


def proportional_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def children(shim: Shim) -> list[int]:
    listed = Path(f"/proc/{shim.pid}/task/{shim.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def newborn(shim: Shim) -> int:
    """The process that waits to become the container; the shim's only child until then."""
    until(lambda: bool(children(shim)), "the container's process")
    (pid,) = children(shim)
    return pid


def test_memory_of_a_shim(lab: Lab) -> None:
    shims = [lab.run("sleep", "1000") for _ in range(CONTAINERS)]
    found = mean(proportional_kb(shim.pid) for shim in shims)
    print(f"{found:.0f} kB")
    assert found <= LIMIT_KB


def test_it_becomes_the_container(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    waiting = newborn(shim)
    assert shim.start("sleep", "1000")["pid"] == waiting
    assert children(shim) == [waiting]


def test_killed_while_it_waits(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    os.kill(newborn(shim), signal.SIGKILL)
    until(lambda: not children(shim), "the end of that process")
    shim.start("true")
    assert shim.exit_code() == 0


def test_never_started(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    helper = newborn(shim)
    shim.call("abandon")
    shim.gone()
    until(lambda: not os.path.exists(f"/proc/{helper}"), "the end of that process")
