"""Health checks: what runs them, when, and what clients see of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import polling
from tests.archives import busybox_layer, docker_archive
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.rawhttp import filters

SLEEP = ("sleep", "1000")
MS = 1_000_000


@pytest.fixture
def checked(engine: Engine, name: str) -> Callable[..., str]:
    """Starts a container with a health check; ``interval`` and the like are in ms."""

    def start(test: list[str], **settings: int) -> str:
        check: dict[str, Any] = {"Test": test, "Interval": 50 * MS}
        for key, value in settings.items():
            check[key] = value if key == "Retries" else value * MS
        body = {"Image": BUSYBOX, "Cmd": SLEEP, "Healthcheck": check}
        created = engine.api("POST", f"/containers/create?name={name}", body)
        assert created.status == 201, created.body
        assert engine.api("POST", f"/containers/{name}/start").status == 204
        return name

    return start


def health(engine: Engine, name: str) -> Any:
    return engine.inspect(name)["State"].get("Health")


def wait_health(engine: Engine, name: str, status: str) -> None:
    polling.until(
        lambda: health(engine, name)["Status"] == status,
        f"{name} to be {status}",
        explain=lambda: str(health(engine, name)),
    )


def sh(engine: Engine, name: str, script: str) -> None:
    engine.docker("exec", name, "sh", "-c", script)


def actions(engine: Engine, name: str, since: float) -> list[str]:
    wanted = filters(container=[name])
    target = f"/events?since={since:.9f}&until={time.time():.9f}&{wanted}"
    return [event["Action"] for event in engine.api("GET", target).objects()]


def test_good_bad_good(engine: Engine, checked: Callable[..., str]) -> None:
    since = time.time()
    # Until /go is there no check ends.
    look = "until [ -e /go ]; do sleep 0.01; done; echo looking; test -e /ok"
    name = checked(["CMD-SHELL", look], Retries=2)
    assert health(engine, name)["Status"] == "starting"
    assert "(health: starting)" in engine.docker("ps", "-f", f"name={name}").stdout
    sh(engine, name, "touch /go")
    wait_health(engine, name, "unhealthy")
    found = health(engine, name)
    assert found["FailingStreak"] >= 2
    assert (found["Log"][-1]["ExitCode"], found["Log"][-1]["Output"]) == (1, "looking\n")
    sh(engine, name, "touch /ok")
    wait_health(engine, name, "healthy")
    assert health(engine, name)["FailingStreak"] == 0
    assert "(healthy)" in engine.docker("ps", "-f", f"name={name}").stdout
    seen = [action for action in actions(engine, name, since) if "health_status" in action]
    assert seen == ["health_status: unhealthy", "health_status: healthy"]


def test_created_container_has_no_health_yet(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "--health-cmd", "true", BUSYBOX)
    assert health(engine, name) is None


def test_log_is_short(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "sh", "-c", "head -c 5000 /dev/zero | tr '\\000' a"], Interval=5)
    polling.until(lambda: len(health(engine, name)["Log"]) == 5, "five results")
    first = health(engine, name)["Log"][0]
    assert first["Output"] == "a" * 4096 + "..."
    polling.until(lambda: first not in health(engine, name)["Log"], "the oldest to go")
    assert len(health(engine, name)["Log"]) == 5


def test_timeout_kills_the_whole_probe(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD-SHELL", "echo hung; sleep 777 & sleep 777"], Timeout=200, Retries=1)
    wait_health(engine, name, "unhealthy")

    def hung() -> list[Any]:
        return [result for result in health(engine, name)["Log"] if "hung" in result["Output"]]

    # On a slow machine one may have had no time to say anything.
    result = polling.until(hung, "a probe that said something")[0]
    assert result["ExitCode"] == -1
    assert result["Output"] == "Health check exceeded timeout (200ms): hung\n"
    engine.docker("pause", name)
    processes = engine.api("GET", f"/containers/{name}/top?ps_args=-o%20pid,args").json()
    sleeping = [row for row in processes["Processes"] if row[1] == "sleep 777"]
    assert len(sleeping) <= 2, processes  # a probe that is under way, no more


def test_program_that_is_not_there(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "/no/such/program"], Retries=1)
    wait_health(engine, name, "unhealthy")
    result = health(engine, name)["Log"][0]
    assert result["ExitCode"] == -1
    assert "/no/such/program" in result["Output"]


def test_failures_in_the_start_period_do_not_count(
    engine: Engine, checked: Callable[..., str]
) -> None:
    name = checked(
        ["CMD", "test", "-e", "/ok"], StartPeriod=60_000, StartInterval=10, Retries=1, Interval=10
    )
    polling.until(lambda: len(health(engine, name)["Log"]) == 5, "five results")
    assert (health(engine, name)["Status"], health(engine, name)["FailingStreak"]) == (
        "starting",
        0,
    )
    sh(engine, name, "touch /ok")
    wait_health(engine, name, "healthy")
    sh(engine, name, "rm /ok")
    wait_health(engine, name, "unhealthy")


def test_start_interval(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "true"], StartPeriod=60_000, StartInterval=10, Interval=60_000)
    wait_health(engine, name, "healthy")


@pytest.mark.parametrize("test", [["NONE"], []], ids=["none", "empty"])
def test_no_check(engine: Engine, checked: Callable[..., str], test: list[str]) -> None:
    name = checked(test)
    assert health(engine, name) is None
    assert "health" not in engine.docker("ps", "-f", f"name={name}").stdout


def test_environment_and_directory(engine: Engine, name: str) -> None:
    engine.docker(
        *("run", "-d", "--name", name, "-e", "A=b", "-w", "/tmp", "--health-interval=10ms"),
        *("--health-cmd", "echo $A $PWD $(id -u)", "-u", "7", BUSYBOX, *SLEEP),
    )
    wait_health(engine, name, "healthy")
    assert health(engine, name)["Log"][0]["Output"] == "b /tmp 7\n"


def test_paused_container_is_not_probed(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "true"], Interval=10)
    wait_health(engine, name, "healthy")
    since = time.time()
    engine.docker("pause", name)
    paused = health(engine, name)
    assert paused["Status"] == "unhealthy"  # Docker's word for what nobody looks at
    engine.docker("exec", name, "true", check=False)  # any round trip takes longer than a probe
    assert health(engine, name) == paused
    engine.docker("unpause", name)
    wait_health(engine, name, "healthy")
    assert "health_status: healthy" in actions(engine, name, since)


def test_stop_does_not_wait_for_a_probe(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "sleep", "777"], Interval=1, Timeout=60_000)
    polling.until(lambda: "sleep 777" in engine.docker("top", name).stdout, "a probe")
    begun = time.monotonic()
    engine.docker("kill", name)
    engine.wait_status(name, "exited")
    assert time.monotonic() - begun < 30  # half the probe's time
    assert health(engine, name)["Status"] == "unhealthy"
    engine.api("POST", f"/containers/{name}/start")
    assert health(engine, name)["Status"] == "starting"


def test_filter(engine: Engine, checked: Callable[..., str]) -> None:
    name = checked(["CMD", "true"], Interval=10)
    wait_health(engine, name, "healthy")
    for status, count in (("healthy", 1), ("unhealthy", 0), ("starting", 0), ("none", 0)):
        wanted = filters(health=[status], name=[name])
        assert len(engine.api("GET", f"/containers/json?{wanted}").json()) == count


def test_check_of_the_image(engine: Engine, name: str) -> None:
    image = f"{fresh_name()}:1"
    config = {"Healthcheck": {"Test": ["CMD-SHELL", "exit 3"], "Retries": 1}}
    archive = docker_archive([image], [busybox_layer()], config)
    tar = {"Content-Type": "application/x-tar"}
    assert engine.api("POST", "/images/load?quiet=1", archive, tar).status == 200
    try:
        engine.docker("run", "-d", "--name", name, "--health-interval", "10ms", image, *SLEEP)
        wait_health(engine, name, "unhealthy")
        assert health(engine, name)["Log"][0]["ExitCode"] == 3
    finally:
        engine.api("DELETE", f"/containers/{name}?force=1")
        engine.api("DELETE", f"/images/{image}")


def test_goes_on_after_a_crash_of_the_engine(make_engine: Callable[..., OwnEngine]) -> None:
    engine = make_engine()
    engine.load_busybox()
    name = fresh_name()
    engine.docker(
        *("run", "-d", "--name", name, "--health-interval", "20ms", "--health-retries", "2"),
        *("--health-timeout", "20s", "--health-cmd", "test -e /ok", BUSYBOX, *SLEEP),
    )
    sh(engine, name, "touch /ok")
    wait_health(engine, name, "healthy")
    engine.kill_daemons()
    engine.start()
    assert health(engine, name)["Status"] == "healthy"
    sh(engine, name, "rm /ok")
    wait_health(engine, name, "unhealthy")
    engine.destroy()
