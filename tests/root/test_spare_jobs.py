"""lifecycle's spare jobs with a real zygote: what they weigh, and some that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import InvalidArgument
from common.paths import Paths
from lifecycle import jobs
from lifecycle.shims import SPARE_JOBS, Zygote
from tests import polling
from tests.census import kill, processes

LIMIT_KB = 3072
DEADLINE = 20.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
async def engine(root: Path) -> AsyncIterator[Any]:
    """As much of one as a job needs that enters nothing."""
    zygote = Zygote(Paths(root.with_name("data"), root), busy=lambda: False)
    await zygote.open()
    yield SimpleNamespace(zygote=zygote)
    await zygote.close()


async def waiting(root: Path, state: str = "S") -> list[int]:
    """The spare jobs, when all of them have come to rest."""
    title = f"longshore-spare-job {root}"
    async with asyncio.timeout(DEADLINE):
        while True:
            found = [each.pid for each in processes() if (each.title, each.state) == (title, state)]
            if len(found) == SPARE_JOBS:
                return found
            await asyncio.sleep(0.01)


async def refused(engine: Any) -> None:
    """A job that says that it does not know what is asked of it."""
    with pytest.raises(InvalidArgument, match="unknown job 'dance'"):
        await jobs.run_in(engine, "ab" * 32, "dance", {}, {}, [])


def private_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def test_memory_of_its_own(engine: Any, root: Path) -> None:
    found = max(private_kb(pid) for pid in await waiting(root))
    print(f"{found} kB")
    assert found <= LIMIT_KB


async def test_each_is_used_once(engine: Any, root: Path) -> None:
    before = await waiting(root)
    for _ in before:
        await refused(engine)
    assert not set(before) & set(await waiting(root))


async def test_killed_while_it_waits(engine: Any, root: Path) -> None:
    for pid in await waiting(root):
        kill(pid)
    for _ in range(SPARE_JOBS + 1):
        await refused(engine)
    assert len(await waiting(root)) == SPARE_JOBS


async def test_killed_before_it_reads(engine: Any, root: Path) -> None:
    """What was asked of it is asked of another."""
    pids = await waiting(root)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await waiting(root, "T")
    asked = asyncio.create_task(refused(engine))
    await asyncio.sleep(0)  # the task's first step, which sends the request
    for pid in pids:
        kill(pid)
    await asyncio.wait_for(asked, DEADLINE)


async def test_none_are_left(engine: Any, root: Path) -> None:
    pids = await waiting(root)
    await engine.zygote.close()
    for pid in pids:
        polling.until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")  # noqa: B023
