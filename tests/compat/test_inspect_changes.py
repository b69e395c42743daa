"""What inspect says is what is: an answer that was given before never outlives a change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, fresh_name

SIZES = ("SizeRw", "SizeRootFs")
CHECK = "test -e /fine"


def asked_anew(engine: Engine, name: str) -> Any:
    """An answer that is not one of those that are kept: sizes are measured each time."""
    body = engine.api("GET", f"/containers/{name}/json?size=1").json()
    return {key: value for key, value in body.items() if key not in SIZES}


def networks(inspected: Any) -> set[str]:
    return set(inspected["NetworkSettings"]["Networks"])


def is_up_to_date(engine: Engine, name: str) -> bool:
    return bool(engine.inspect(name) == asked_anew(engine, name))


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    name = fresh_name()
    engine.docker("network", "create", name)
    yield name
    engine.docker("network", "rm", name)


def test_after_each_operation(engine: Engine, name: str, network: str) -> None:
    engine.docker("create", "--name", name, BUSYBOX, "sleep", "1000")
    container = engine.inspect(name)["Id"]
    operations: list[tuple[tuple[str, ...], Callable[[Any], object], object]] = [
        (("start",), lambda now: now["State"]["Running"], True),
        (("pause",), lambda now: now["State"]["Status"], "paused"),
        (("unpause",), lambda now: now["State"]["Status"], "running"),
        (("update", "--cpu-shares", "77"), lambda now: now["HostConfig"]["CpuShares"], 77),
        (("network", "connect", network), networks, {"bridge", network}),
        (("network", "disconnect", network), networks, {"bridge"}),
        (("pause",), lambda now: now["State"]["Paused"], True),
        (("stop", "-t", "0"), lambda now: now["State"]["ExitCode"], 137),
        (("restart",), lambda now: now["State"]["ExitCode"], 0),
        (("kill",), lambda now: now["State"]["Running"], False),
    ]
    for command, field, expected in operations:
        before = engine.inspect(name)
        assert engine.inspect(container) == before
        engine.docker(*command, name)
        now = engine.inspect(name)
        assert field(now) == expected != field(before), command
        assert engine.inspect(container)["State"] == now["State"], command
        polling.until(lambda: is_up_to_date(engine, name), f"inspect after {command}")


def test_name_that_becomes_anothers(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, BUSYBOX)
    first, other = engine.inspect(name)["Id"], fresh_name()
    engine.docker("rename", name, other)
    assert engine.api("GET", f"/containers/{name}/json").status == 404
    assert engine.inspect(first)["Name"] == f"/{other}"
    engine.docker("create", "--name", name, BUSYBOX)
    assert engine.inspect(name)["Id"] != first
    engine.docker("rm", other)
    assert engine.api("GET", f"/containers/{first}/json").status == 404


def test_execs(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "1000")
    before = engine.inspect(name)
    asked = {"Cmd": ["sh", "-c", "until [ -e /go ]; do sleep 0.01; done"]}
    execution = engine.api("POST", f"/containers/{name}/exec", asked).json()["Id"]
    assert engine.inspect(name)["ExecIDs"] == [execution]
    engine.api("POST", f"/exec/{execution}/start", {"Detach": True})
    assert engine.inspect(name)["ExecIDs"] == [execution]
    engine.docker("exec", name, "touch", "/go")
    polling.until(lambda: engine.inspect(name) == before, "the exec's end")


def test_exit_by_itself_and_health(engine: Engine, running: Callable[..., str]) -> None:
    name = running("--health-cmd", CHECK, "--health-interval", "100ms", BUSYBOX, "sleep", "1000")
    assert engine.inspect(name)["State"]["Health"]["Status"] == "starting"
    engine.docker("exec", name, "touch", "/fine")
    polling.until(lambda: engine.inspect(name)["State"]["Health"]["Status"] == "healthy", "health")
    with os.fdopen(os.pidfd_open(engine.inspect(name)["State"]["Pid"])) as pidfd:
        signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
    engine.wait_status(name, "exited")
    assert engine.inspect(name)["State"]["Health"]["Status"] == "unhealthy"
    polling.until(lambda: is_up_to_date(engine, name), "inspect after the exit")
