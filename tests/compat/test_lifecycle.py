"""create, start, ps, inspect, stop, kill, restart, pause, rename, wait, rm."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, fresh_name
from tests.rawhttp import Response, filters

FOREVER = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done"


def create(engine: Engine, name: str, *command: str, **host: Any) -> str:
    body = {"Image": BUSYBOX, "Cmd": list(command), "HostConfig": host}
    answer = engine.api("POST", f"/containers/create?name={name}", body)
    assert (answer.status, answer.json()["Warnings"]) == (201, []), answer.body
    return str(answer.json()["Id"])


def wait_ready(engine: Engine, name: str) -> None:
    """The trap is set: a first process without one ignores the signal."""
    polling.until(lambda: "ready" in engine.docker("logs", name).stdout, "the trap to be set")


def test_states_of_a_life(engine: Engine, name: str) -> None:
    create(engine, name, "sh", "-c", FOREVER)
    assert engine.status(name) == "created"
    assert engine.api("POST", f"/containers/{name}/start").status == 204
    assert engine.status(name) == "running"
    wait_ready(engine, name)
    assert engine.api("POST", f"/containers/{name}/stop").status == 204
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 6, False)
    assert engine.api("POST", f"/containers/{name}/start").status == 204
    assert engine.status(name) == "running"
    assert engine.api("DELETE", f"/containers/{name}?force=1").status == 204
    assert engine.api("GET", f"/containers/{name}/json").status == 404


def test_inspect(engine: Engine, name: str) -> None:
    engine.docker(
        *("run", "-d", "--name", name, "-e", "A=1", "-l", "k=v", "-w", "/tmp", "-h", "box"),
        *(BUSYBOX, "sleep", "100"),
    )
    found = engine.inspect(name)
    assert found["Name"] == f"/{name}"
    assert (found["Path"], found["Args"]) == ("sleep", ["100"])
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found["Image"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", found["Created"])
    config = found["Config"]
    assert (config["Image"], config["Hostname"], config["WorkingDir"]) == (BUSYBOX, "box", "/tmp")
    assert "A=1" in config["Env"]
    assert config["Labels"] == {"k": "v"}
    assert config["Cmd"] == ["sleep", "100"]
    state = found["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("running", True, False)
    assert (state["Restarting"], state["OOMKilled"], state["Dead"]) == (False, False, False)
    assert state["Pid"] > 1
    assert (state["ExitCode"], state["Error"]) == (0, "")
    assert state["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert (found["Driver"], found["Platform"]) == ("overlay2", "linux")
    assert found["RestartCount"] == 0


def test_host_config_defaults(engine: Engine, name: str) -> None:
    create(engine, name, "true")
    host = engine.inspect(name)["HostConfig"]
    assert host["NetworkMode"] == "bridge"
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {}}
    assert (host["IpcMode"], host["ShmSize"]) == ("private", 67108864)
    assert (host["ConsoleSize"], host["PidsLimit"], host["OomKillDisable"]) == ([0, 0], None, False)
    assert "/proc/kcore" in host["MaskedPaths"]
    assert "/proc/sys" in host["ReadonlyPaths"]
    for key in ("Binds", "CapAdd", "CapDrop", "ExtraHosts", "GroupAdd", "SecurityOpt", "Devices"):
        assert not host[key], key


def test_reference_by_short_id_and_prefix(engine: Engine, name: str) -> None:
    full = create(engine, name, "true")
    for reference in (full, full[:12], full[:20], name, f"/{name}".replace("/", "")):
        assert engine.inspect(reference)["Id"] == full


def test_list(engine: Engine, name: str, running: Callable[..., str]) -> None:
    other = running("-l", "k=v", BUSYBOX, "sleep", "100")
    create(engine, name, "true")

    def names(query: str) -> set[str]:
        found = engine.api("GET", f"/containers/json{query}").json()
        return {container["Names"][0][1:] for container in found} & {name, other}

    assert names("") == {other}
    assert names("?all=1") == {name, other}
    assert names(f"?all=1&{filters(name=[name])}") == {name}
    assert names(f"?{filters(label=['k'])}") == {other}
    assert names(f"?{filters(label=['k=w'])}") == set()
    assert names(f"?all=1&{filters(status=['created'])}") == {name}
    assert names("?limit=1") == {name}


def test_list_entry(engine: Engine, running: Callable[..., str]) -> None:
    name = running("-l", "k=v", "--expose", "81", BUSYBOX, "sleep", "100")
    found = engine.api("GET", f"/containers/json?{filters(name=[name])}").json()
    assert len(found) == 1
    entry = found[0]
    assert (entry["Names"], entry["Image"], entry["State"]) == ([f"/{name}"], BUSYBOX, "running")
    assert entry["Command"] == "sleep 100"
    assert entry["Labels"] == {"k": "v"}
    assert entry["Ports"] == [{"PrivatePort": 81, "Type": "tcp"}]
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", entry["Status"])
    assert abs(entry["Created"] - time.time()) < 60
    assert entry["HostConfig"] == {"NetworkMode": "bridge"}
    assert list(entry["NetworkSettings"]["Networks"]) == ["bridge"]
    assert entry["Mounts"] == []


def test_ps(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    row = engine.docker("ps", "-f", f"name={name}", "--format", "{{.Names}} {{.Command}}").stdout
    assert row == f'{name} "sleep 100"\n'
    assert (
        engine.docker("ps", "-q", "--no-trunc", "-f", f"name={name}").stdout.strip()
        == (engine.inspect(name)["Id"])
    )


def test_stop_waits_for_the_signal_handler(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sh", "-c", FOREVER)
    wait_ready(engine, name)
    engine.docker("stop", name)
    assert engine.inspect(name)["State"]["ExitCode"] == 6


def test_stop_kills_after_the_timeout(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")  # process 1 without a handler ignores SIGTERM
    begin = time.monotonic()
    engine.docker("stop", "-t", "1", name)
    assert 0.9 < time.monotonic() - begin < 10  # what it is without -t
    assert engine.inspect(name)["State"]["ExitCode"] == 137


def test_stop_signal(engine: Engine, running: Callable[..., str]) -> None:
    script = "trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done"
    name = running("--stop-signal", "SIGUSR1", BUSYBOX, "sh", "-c", script)
    wait_ready(engine, name)
    engine.docker("stop", name)
    assert engine.inspect(name)["State"]["ExitCode"] == 8


@pytest.mark.parametrize("signal", ["KILL", "SIGKILL", "9"])
def test_kill(engine: Engine, running: Callable[..., str], signal: str) -> None:
    name = running(BUSYBOX, "sleep", "100")
    engine.docker("kill", "-s", signal, name)
    engine.wait_status(name, "exited")
    assert engine.inspect(name)["State"]["ExitCode"] == 137


def test_kill_with_another_signal(engine: Engine, running: Callable[..., str]) -> None:
    script = "trap 'echo got it' USR1; echo ready; while :; do sleep 0.05; done"
    name = running(BUSYBOX, "sh", "-c", script)
    wait_ready(engine, name)
    engine.docker("kill", "-s", "USR1", name)
    polling.until(lambda: "got it" in engine.docker("logs", name).stdout, "the handler")
    assert engine.status(name) == "running"


def test_restart(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    before = engine.inspect(name)["State"]["Pid"]
    engine.docker("restart", "-t", "0", name)
    assert engine.status(name) == "running"
    assert engine.inspect(name)["State"]["Pid"] != before


def test_changes_survive_a_stop(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sh", "-c", "echo x >> /count; sleep 100")

    def wait_for_lines(expected: str) -> None:
        command = ("exec", name, "cat", "/count")
        polling.until(
            lambda: engine.docker(*command, check=False).stdout == expected,
            f"{expected!r} in the file",
        )

    wait_for_lines("x\n")
    engine.docker("restart", "-t", "0", name)
    wait_for_lines("x\nx\n")


def test_pause(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    assert engine.api("POST", f"/containers/{name}/pause").status == 204
    assert engine.status(name) == "paused"
    answer = engine.api("POST", f"/containers/{name}/pause")
    assert answer.status == 409
    assert answer.message.endswith("is already paused")
    assert engine.api("POST", f"/containers/{name}/unpause").status == 204
    assert engine.status(name) == "running"


def test_rename(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sleep", "100")
    new = fresh_name()
    assert engine.api("POST", f"/containers/{name}/rename?name={new}").status == 204
    assert engine.api("GET", f"/containers/{name}/json").status == 404
    assert engine.inspect(new)["Name"] == f"/{new}"
    engine.api("POST", f"/containers/{new}/rename?name={name}")


def test_wait_for_the_exit(engine: Engine, running: Callable[..., str]) -> None:
    name = running(BUSYBOX, "sh", "-c", "sleep 0.3; exit 4")
    assert engine.docker("wait", name).stdout == "4\n"
    answer = engine.api("POST", f"/containers/{name}/wait")
    assert (answer.status, answer.json()) == (200, {"StatusCode": 4})


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_wait_conditions(engine: Engine, name: str, condition: str) -> None:
    create(engine, name, "sh", "-c", "exit 3", AutoRemove=condition == "removed")
    if condition == "not-running":
        engine.api("POST", f"/containers/{name}/start")
    # Who has the head knows that the wait stands.
    target = f"/containers/{name}/wait?condition={condition}"
    with engine.hijack(target, upgrade=False) as stream:
        assert stream.status == 200
        if condition != "not-running":
            engine.api("POST", f"/containers/{name}/start")
        stream.read_until(b'{"StatusCode":3}')


def test_wait_removed_answers_after_the_name_is_free(engine: Engine, name: str) -> None:
    engine.docker("run", "--rm", "--name", name, BUSYBOX, "true")
    engine.docker("run", "--rm", "--name", name, BUSYBOX, "true")


def test_remove_answers_when_it_is_in_no_list(engine: Engine, name: str) -> None:
    for _ in range(5):
        engine.docker("run", "-d", "--name", name, BUSYBOX, "sleep", "100")
        assert engine.api("DELETE", f"/containers/{name}?force=1").status == 204
        listed = engine.api("GET", "/containers/json?all=1").json()
        assert f"/{name}" not in [n for container in listed for n in container["Names"]]


def test_restart_policy(engine: Engine, running: Callable[..., str]) -> None:
    name = running("--restart", "on-failure:2", BUSYBOX, "sh", "-c", "echo x; exit 5")
    polling.until(lambda: engine.inspect(name)["RestartCount"] == 2, "two restarts")
    engine.wait_status(name, "exited")
    assert engine.docker("logs", name).stdout == "x\nx\nx\n"
    assert engine.inspect(name)["State"]["ExitCode"] == 5


def test_concurrent_starts_make_one_process(engine: Engine, name: str) -> None:
    create(engine, name, "sleep", "100")
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(engine.api("POST", f"/containers/{name}/start").status)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [204] + [304] * 7


def test_concurrent_creates_of_a_name(engine: Engine, name: str) -> None:
    answers: list[Response] = []
    body = {"Image": BUSYBOX, "Cmd": ["true"]}
    for _ in range(2):  # the name is free again afterwards
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    engine.api("POST", f"/containers/create?name={name}", body)
                )
            )
            for _ in range(32)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in answers) == [201] + [409] * 31
        winner = next(answer.json()["Id"] for answer in answers if answer.status == 201)
        losers = [answer.body.decode() for answer in answers if answer.status == 409]
        assert all(winner in text for text in losers), losers[0]
        engine.api("DELETE", f"/containers/{name}")
        answers.clear()
