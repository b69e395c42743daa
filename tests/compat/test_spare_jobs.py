"""docker cp with the processes that the engine keeps for it, and with those gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import census, polling
from tests.conftest import FOREIGN
from tests.engine import BUSYBOX, OwnEngine, fresh_name

pytestmark = pytest.mark.skipif(bool(FOREIGN), reason="kills the engine: only for our own")
SPARES = 2


@pytest.fixture
def box(mortal: OwnEngine) -> Iterator[str]:
    name = fresh_name()
    mortal.docker("run", "-d", "--name", name, BUSYBOX, "sleep", "1000")
    yield name
    mortal.docker("rm", "-f", name)


def present(engine: OwnEngine) -> set[int]:
    title = f"longshore-spare-job {engine.exec_root}"
    return {process.pid for process in census.processes() if process.title == title}


def complete(engine: OwnEngine) -> set[int]:
    return polling.until(
        lambda: found if len(found := present(engine)) == SPARES else set(), "the spare jobs"
    )


def copy(engine: OwnEngine, box: str, directory: Path) -> None:
    """Something in, and out again."""
    (directory / "in").write_text(fresh_name())
    engine.docker("cp", str(directory / "in"), f"{box}:/tmp/file")
    engine.docker("cp", f"{box}:/tmp/file", str(directory / "out"))
    assert (directory / "out").read_text() == (directory / "in").read_text()


def test_a_copy_uses_them(mortal: OwnEngine, box: str, tmp_path: Path) -> None:
    before = complete(mortal)
    copy(mortal, box, tmp_path)
    polling.until(lambda: not before & present(mortal), "their end")
    complete(mortal)


def test_a_copy_without_them(mortal: OwnEngine, box: str, tmp_path: Path) -> None:
    for pid in complete(mortal):
        census.kill(pid)
    copy(mortal, box, tmp_path)
    complete(mortal)


@pytest.mark.parametrize("daemon", ["lifecycle", "zygote"])
def test_they_end_with(daemon: str, mortal: OwnEngine, box: str, tmp_path: Path) -> None:
    before = complete(mortal)
    getattr(mortal, f"kill_{daemon}")()
    polling.until(lambda: not before & present(mortal), "their end")
    copy(mortal, box, tmp_path)
    complete(mortal)


def test_they_end_with_all(mortal: OwnEngine, box: str) -> None:
    complete(mortal)
    mortal.kill_daemons()
    polling.until(lambda: not present(mortal), "their end")
    mortal.start()
    complete(mortal)
