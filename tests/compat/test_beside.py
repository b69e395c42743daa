"""Two engines on one machine: own sockets, roots, bridges and ranges, and no contact."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import census
from tests.conftest import FOREIGN
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name

pytestmark = pytest.mark.skipif(bool(FOREIGN), reason="starts engines of our own")


def firewall(engine: OwnEngine) -> set[str]:
    """What is in this engine's tables."""
    lines = census.firewall(census.Others.find([engine.exec_root]))
    own = tuple(f"{family} {name}" for family, name in census.tables_of(engine.bridge))
    return {line for line in lines if line.startswith(own)}


def test_neither_disturbs_the_other(
    engine: OwnEngine, make_engine: Callable[..., OwnEngine], running: Callable[..., str]
) -> None:
    here = running("-p", "80", BUSYBOX, "sleep", "1000")
    rules = firewall(engine)
    other = make_engine()
    try:
        other.load_busybox()
        there = fresh_name()
        other.docker("run", "-d", "--name", there, "-p", "80", BUSYBOX, "sleep", "1000")
        assert other.api("GET", f"/containers/{here}/json").status == 404
        assert engine.api("GET", f"/containers/{there}/json").status == 404
        assert other.inspect(there)["NetworkSettings"]["Gateway"] == other.bip.split("/")[0]
        assert rules <= firewall(engine)
        other.restart()
        assert other.status(there) == "running"
    finally:
        other.destroy()
    assert engine.status(here) == "running"
    assert engine.docker("exec", here, "echo", "x").stdout == "x\n"
    assert rules <= firewall(engine)


def test_processes_say_what_they_are(engine: Engine, running: Callable[..., str]) -> None:
    assert isinstance(engine, OwnEngine)
    name = running(BUSYBOX, "sleep", "1000")
    short = engine.inspect(name)["Id"][:12]
    titles = [p.title for p in census.processes() if str(engine.exec_root) in p.title]
    for title in (
        "longshored",
        "longshore-lifecycle",
        "longshore-zygote",
        f"longshore-shim {short}",
    ):
        assert f"{title} {engine.exec_root}" in titles
