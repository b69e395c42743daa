"""Restart policies: who is started again, when, how often, and what a client can do meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.rawhttp import filters

SLEEP = ("sleep", "1000")


@pytest.fixture
def started(engine: Engine, name: str) -> Callable[..., str]:
    def start(policy: str, *command: str, retries: int = 0) -> str:
        restart = {"Name": policy, "MaximumRetryCount": retries}
        body = {"Image": BUSYBOX, "Cmd": command, "HostConfig": {"RestartPolicy": restart}}
        answer = engine.api("POST", f"/containers/create?name={name}", body)
        assert answer.status == 201, answer.body
        assert engine.api("POST", f"/containers/{name}/start").status == 204
        return name

    return start


def count(engine: Engine, name: str) -> int:
    return int(engine.inspect(name)["RestartCount"])


def times(engine: Engine, name: str, since: float, action: str) -> list[float]:
    wanted = filters(container=[name], event=[action])
    target = f"/events?since={since:.9f}&until={time.time():.9f}&{wanted}"
    return [event["timeNano"] / 1e9 for event in engine.api("GET", target).objects()]


def stays(engine: Engine, name: str, status: str) -> None:
    """As long as it could take to be started again, it is not."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert engine.status(name) == status


def test_on_failure_ends_with_its_retries(engine: Engine, started: Callable[..., str]) -> None:
    since = time.time()
    name = started("on-failure", "sh", "-c", "exit 3", retries=2)
    polling.until(
        lambda: (count(engine, name), engine.status(name)) == (2, "exited"), "two restarts"
    )
    assert engine.inspect(name)["State"]["ExitCode"] == 3
    # The event comes when what the container had is given back, the state before.
    polling.until(lambda: len(times(engine, name, since, "die")) == 3, "the third death")
    engine.docker("start", name)
    polling.until(
        lambda: (count(engine, name), engine.status(name)) == (2, "exited"), "two more restarts"
    )


def test_on_failure_lets_success_be(engine: Engine, started: Callable[..., str]) -> None:
    name = started("on-failure", "true")
    engine.wait_status(name, "exited")
    assert count(engine, name) == 0


def test_delay_doubles(engine: Engine, started: Callable[..., str]) -> None:
    since = time.time()
    name = started("always", "true")
    polling.until(lambda: count(engine, name) >= 4, "four restarts")
    died, begun = times(engine, name, since, "die"), times(engine, name, since, "start")[1:]
    pauses = [start - death for death, start in zip(died, begun, strict=False)]
    # A busy machine adds to each; tests/unit/test_restart_delay.py has the exact ones.
    for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=False):
        assert least <= pause < least + 5.0, pauses


def test_state_while_it_waits(engine: Engine, started: Callable[..., str]) -> None:
    name = started("always", "sh", "-c", "exit 5")
    # The next wait then takes 1.6 s, long enough for most questions.
    polling.until(lambda: count(engine, name) >= 4, "four restarts")
    state: Any = polling.until(
        lambda: (found := engine.inspect(name)["State"])["Restarting"] and found, "the wait"
    )
    assert (state["Status"], state["Running"], state["Pid"]) == ("restarting", True, 0)
    assert state["ExitCode"] == 5
    # A question may meet the next run. The wait after that is twice as long.
    polling.until(
        lambda: "Restarting (5)" in engine.docker("ps", "-f", f"name={name}").stdout,
        "a list during a wait",
        timeout=20,
    )
    refusal = "is restarting, wait until the container is running"
    polling.until(
        lambda: refusal in engine.docker("exec", name, "true", check=False).stderr,
        "an exec during a wait",
        timeout=20,
    )


def test_stop_while_it_waits(engine: Engine, started: Callable[..., str]) -> None:
    name = started("always", "true")
    polling.until(lambda: count(engine, name) >= 3, "three restarts")
    engine.wait_status(name, "restarting")
    assert engine.api("POST", f"/containers/{name}/stop").status == 204
    stays(engine, name, "exited")


def test_removal_while_it_waits(engine: Engine, started: Callable[..., str]) -> None:
    name = started("always", "true")
    polling.until(lambda: count(engine, name) >= 2, "two restarts")
    assert engine.api("DELETE", f"/containers/{name}").status == 409
    assert engine.api("DELETE", f"/containers/{name}?force=1").status == 204
    assert engine.api("GET", f"/containers/{name}/json").status == 404


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
@pytest.mark.parametrize("verb", ["stop?t=0", "kill"])
def test_what_a_client_ends_stays_ended(
    engine: Engine, started: Callable[..., str], policy: str, verb: str
) -> None:
    name = started(policy, *SLEEP)
    assert engine.api("POST", f"/containers/{name}/{verb}").status == 204
    engine.wait_status(name, "exited")
    stays(engine, name, "exited")
    assert count(engine, name) == 0


def test_program_killed_inside_is_started_again(
    engine: Engine, started: Callable[..., str]
) -> None:
    name = started("unless-stopped", "sh", "-c", "sleep 1000 & wait; exit 1")
    first = engine.inspect(name)["State"]["Pid"]
    polling.until(
        lambda: engine.docker("exec", name, "pidof", "sleep", check=False).stdout, "its sleep"
    )
    # The end of the container may end killall before that ends itself.
    engine.docker("exec", name, "killall", "sleep", check=False)
    polling.until(lambda: count(engine, name) == 1, "the restart")
    engine.wait_status(name, "running")
    assert engine.inspect(name)["State"]["Pid"] != first


def test_policy_can_be_changed(engine: Engine, started: Callable[..., str]) -> None:
    name = started("always", "sh", "-c", "sleep 0.3")
    engine.docker("update", "--restart", "no", name)
    engine.wait_status(name, "exited")
    stays(engine, name, "exited")


def test_start_of_the_engine(make_engine: Callable[..., OwnEngine]) -> None:
    """Whoever its policy wants is started when the engine comes back after a reboot."""
    engine = make_engine()
    engine.load_busybox()
    names = {}
    for policy in ("always", "unless-stopped", "no", "on-failure:9"):
        for stopped in (False, True):
            name = names[policy, stopped] = fresh_name()
            engine.docker("run", "-d", "--restart", policy, "--name", name, BUSYBOX, *SLEEP)
            if stopped:
                engine.docker("stop", "-t", "0", name)
    engine.reboot()

    def running() -> set[tuple[str, bool]]:
        return {key for key, name in names.items() if engine.status(name) == "running"}

    wanted = {
        ("always", False),
        ("always", True),
        ("unless-stopped", False),
        ("on-failure:9", False),
    }
    # Those that ran have the usual delay before their restart, and the engine serves meanwhile.
    polling.until(lambda: running() >= wanted, "all to run", explain=lambda: f"{running()} do")
    assert running() == wanted
    engine.destroy()


def test_wait_goes_on_after_a_crash_of_the_engine(make_engine: Callable[..., OwnEngine]) -> None:
    engine = make_engine()
    engine.load_busybox()
    name = fresh_name()
    script = "exit 4"
    engine.docker(
        *("run", "-d", "--restart", "on-failure:6", "--name", name, BUSYBOX, "sh", "-c", script)
    )
    polling.until(lambda: count(engine, name) >= 3, "three restarts")
    engine.wait_status(name, "restarting")
    engine.kill_daemons()
    engine.start()
    polling.until(
        lambda: (count(engine, name), engine.status(name)) == (6, "exited"),
        "the other three restarts",
        timeout=30,
    )
    engine.destroy()
