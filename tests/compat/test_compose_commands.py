"""Compose's commands on a stack that is up: run, exec, logs, cp, and what a change makes anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests import polling
from tests.compose import Compose
from tests.engine import Engine

Stack = Callable[[str], Compose]


def test_run(compose: Stack) -> None:
    stack = compose("tools")
    done = stack(
        "run",
        "--rm",
        "-T",
        "-e",
        "COLOUR=blue",
        "app",
        "sh",
        "-c",
        "echo $COLOUR; exit 4",
        check=False,
    )
    assert (done.stdout, done.returncode) == ("blue\n", 4)
    assert stack.services("-a") == []
    fed = stack("run", "--rm", "-T", "app", "cat", stdin="from stdin\n")
    assert fed.stdout == "from stdin\n"


def test_exec(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    assert stack.sh("app", "echo $COLOUR") == "red\n"
    assert stack("exec", "-T", "app", "sh", "-c", "exit 9", check=False).returncode == 9
    assert stack("exec", "-T", "app", "cat", stdin="in\n").stdout == "in\n"
    missing = stack("exec", "-T", "app", "/no/such", check=False)
    assert missing.returncode == 127
    stack("exec", "-d", "app", "touch", "/kept/detached")
    polling.until(lambda: "detached" in stack.sh("app", "ls /kept"), "the detached command")


def test_logs_follow_until_the_end(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    with stack.spawn("logs", "-f") as follower:
        assert follower.stdout
        lines = [follower.stdout.readline().split() for _ in range(2)]
        assert sorted(lines) == [["app-1", "|", "ready"], ["other-1", "|", "other"]]
        stack("stop")
        rest = follower.stdout.read()
        assert "bye" in rest
        assert follower.wait(10) == 0
    assert stack("logs", "--no-log-prefix", "--tail", "1", "app").stdout == "bye\n"


def test_up_in_the_foreground(compose: Stack) -> None:
    stack = compose("migration")
    done = stack("up", "--exit-code-from", "migrate", env={"MIGRATION_RESULT": "6"}, check=False)
    assert done.returncode in (1, 6)


def test_cp(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    (stack.directory / "in.txt").write_text("copied\n")
    stack("cp", "in.txt", "app:/kept/in.txt")
    assert stack.sh("app", "cat /kept/in.txt") == "copied\n"
    stack.sh("app", "mkdir /out && echo inside > /out/file")
    stack("cp", "app:/out", "result")
    assert (stack.directory / "result/file").read_text() == "inside\n"


def test_change_makes_only_its_service_anew(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    app, other = stack.inspect("app")["Id"], stack.inspect("other")["Id"]
    stack.sh("app", "echo x > /kept/file")
    stack("up", "-d")
    assert (stack.inspect("app")["Id"], stack.inspect("other")["Id"]) == (app, other)
    stack("up", "-d", "-t", "0", env={"COLOUR": "green"})
    assert stack.inspect("other")["Id"] == other
    assert stack.inspect("app")["Id"] != app
    assert stack.sh("app", "echo $COLOUR; cat /kept/file") == "green\nx\n"
    stack("up", "-d", "-t", "0", "--force-recreate", env={"COLOUR": "green"})
    assert stack.inspect("other")["Id"] != other


def test_stop_start_restart_pause_kill(engine: Engine, compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    stack("pause", "app")
    assert stack.inspect("app")["State"]["Paused"]
    stack("unpause", "app")
    stack("restart", "-t", "5", "app")
    assert stack.inspect("app")["State"]["Status"] == "running"
    polling.until(lambda: stack.logs("app").count("ready") == 2, "the trap of the second run")
    stack("stop", "app")
    assert stack.inspect("app")["State"]["ExitCode"] == 0
    assert stack.services() == ["other"]
    stack("start")
    assert stack.services() == ["app", "other"]
    stack("kill", "-s", "KILL", "app")
    engine.wait_status(stack.inspect("app")["Id"], "exited")
    stack("rm", "-f", "app")
    assert stack.services("-a") == ["other"]


def test_ls_top_images_events(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    listed = json.loads(stack("ls", "--format", "json").stdout)
    mine = [entry for entry in listed if entry["Name"] == stack.project]
    assert mine[0]["Status"] == "running(2)"
    assert "sleep 1000" in stack("top", "other").stdout
    assert "longshore-test/busybox" in stack("images").stdout
    # From a time before: nothing tells when the command has begun to listen.
    before = str(int(time.time()))
    stack("kill", "other")
    with stack.spawn("events", "--json", "--since", before) as events:
        assert events.stdout
        seen = []
        while "die" not in seen:
            seen.append(json.loads(events.stdout.readline())["action"])
        events.terminate()
    assert seen[-2:] == ["kill", "die"]


def test_orphans(compose: Stack) -> None:
    stack = compose("tools")
    stack("up", "-d")
    path = stack.directory / "compose.yaml"
    before, _, rest = path.read_text().partition("  other:\n")
    path.write_text(before + rest[rest.index("volumes:\n  kept:") :])
    stack("up", "-d", "--remove-orphans")
    assert stack.services("-a") == ["app"]


def test_wait(compose: Stack) -> None:
    stack = compose("migration")
    # Nothing tells when the command waits, and for what is gone it does not.
    for seconds in (0.2, 1.0, 5.0):
        stack("up", "-d", env={"MIGRATION_RESULT": "0"})
        with stack.spawn("wait", "app") as waiting:
            time.sleep(seconds)
            stack("kill", "app")
            if waiting.wait(20) == 137:
                return
    pytest.fail("no exit code")
