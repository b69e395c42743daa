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


def starter(shim: Shim) -> int:
    """The copy of the shim that waits for the start; its only child as long as nothing runs."""
    until(lambda: bool(children(shim)), "the shim's copy of itself")
    (pid,) = children(shim)
    return pid


def test_memory_of_a_shim(lab: Lab) -> None:
    shims = [lab.run("sleep", "1000") for _ in range(CONTAINERS)]
    found = mean(proportional_kb(shim.pid) for shim in shims)
    print(f"{found:.0f} kB")
    assert found <= LIMIT_KB


def test_container_becomes_the_shims_child(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    helper = starter(shim)
    pid = shim.start("sleep", "1000")["pid"]
    until(lambda: children(shim) == [pid], "the end of the shim's copy")
    assert not os.path.exists(f"/proc/{helper}")


def test_killed_while_it_waits(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    os.kill(starter(shim), signal.SIGKILL)
    until(lambda: not children(shim), "the end of the shim's copy")
    shim.start("true")
    assert shim.exit_code() == 0


def test_never_started(lab: Lab) -> None:
    shim = lab.shim()
    shim.subscribe()
    helper = starter(shim)
    shim.call("abandon")
    shim.gone()
    until(lambda: not os.path.exists(f"/proc/{helper}"), "the end of the shim's copy")
