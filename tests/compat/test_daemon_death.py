"""Daemons may die: containers go on, no line is lost, and no exit is forgotten.

An engine of its own is killed here, so that the other tests' one is not disturbed.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import census, polling
from tests.archives import Layer, docker_archive
from tests.conftest import FOREIGN
from tests.engine import BUSYBOX, OwnEngine, fresh_name

pytestmark = pytest.mark.skipif(bool(FOREIGN), reason="kills the engine: only for our own")
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"
KILLS = ["api", "lifecycle", "zygote", "daemons"]


@pytest.fixture
def box(mortal: OwnEngine) -> Iterator[Callable[..., str]]:
    """Starts containers on the mortal engine; starts the engine again if it is down at the end."""
    started: list[str] = []

    def start(*arguments: str) -> str:
        started.append(fresh_name())
        mortal.docker("run", "-d", "--name", started[-1], *arguments)
        return started[-1]

    yield start
    if mortal.process is None or mortal.process.poll() is not None:
        mortal.start()
    for name in started:
        mortal.api("DELETE", f"/containers/{name}?force=1&v=1")


def kill(engine: OwnEngine, what: str) -> None:
    getattr(engine, f"kill_{what}")()


def revive(engine: OwnEngine, what: str) -> None:
    """Start what does not start again by itself."""
    if what in ("api", "daemons"):
        engine.start()
    else:
        polling.until(lambda: engine.api("GET", "/info").status == 200, f"{what} to be back")


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.split()]


def logged(engine: OwnEngine, name: str) -> list[int]:
    return numbers(engine.docker("logs", name).stdout)


def assert_gapless(found: list[int]) -> None:
    assert found == list(range(1, len(found) + 1)), f"{len(found)} lines, the last is {found[-1]}"


@pytest.mark.parametrize("what", KILLS)
def test_container_goes_on(mortal: OwnEngine, box: Callable[..., str], what: str) -> None:
    name = box("-i", BUSYBOX, "sh", "-c", COUNTER)
    pid = mortal.inspect(name)["State"]["Pid"]
    with mortal.spawn("attach", "--no-stdin", name) as client:
        assert client.stdout
        first = int(client.stdout.readline())
        kill(mortal, what)
        os.kill(pid, 0)
        revive(mortal, what)
        assert mortal.inspect(name)["State"]["Pid"] == pid
        # The attached client's bytes pass no daemon: it goes on, or its connection ended with the
        # API process that held the other half; what it got has no gap.
        seen = [first, *(int(client.stdout.readline()) for _ in range(20))]
        assert seen == list(range(first, first + 21))
        client.kill()
    assert mortal.docker("exec", name, "echo", "x").stdout == "x\n"
    before = logged(mortal, name)
    assert_gapless(before)
    polling.until(lambda: len(logged(mortal, name)) > len(before) + 10, "more lines")
    with mortal.spawn("logs", "-f", name) as follower:
        assert follower.stdout
        followed = [int(follower.stdout.readline()) for _ in range(len(before) + 30)]
        mortal.docker("stop", "-t", "0", name)
        followed += numbers(follower.stdout.read().decode())
    assert mortal.status(name) == "exited"
    assert_gapless(followed)
    # The follower ended with the container, after its last line.
    assert followed == logged(mortal, name)


@pytest.mark.parametrize("what", KILLS)
def test_exit_meanwhile_is_known(mortal: OwnEngine, box: Callable[..., str], what: str) -> None:
    name = box(
        "-i", BUSYBOX, "sh", "-c", "echo begin; until [ -e /go ]; do sleep 0.01; done; exit 42"
    )
    pid = mortal.inspect(name)["State"]["Pid"]
    kill(mortal, what)
    # Only the kernel is there to be asked: /go is made through the container's own root.
    Path(f"/proc/{pid}/root/go").touch()
    polling.until(lambda: not Path(f"/proc/{pid}").exists(), "the container's end")
    revive(mortal, what)
    mortal.wait_status(name, "exited")
    assert mortal.inspect(name)["State"]["ExitCode"] == 42
    assert mortal.docker("wait", name).stdout == "42\n"
    assert mortal.docker("logs", name).stdout == "begin\n"
    assert mortal.docker("start", name).stdout == f"{name}\n"


def test_rm_container_that_ended_meanwhile_is_removed(
    mortal: OwnEngine, box: Callable[..., str]
) -> None:
    name = box("--rm", BUSYBOX, "sh", "-c", "until [ -e /go ]; do sleep 0.01; done")
    pid = mortal.inspect(name)["State"]["Pid"]
    mortal.kill_daemons()
    Path(f"/proc/{pid}/root/go").touch()
    mortal.start()
    polling.until(
        lambda: mortal.api("GET", f"/containers/{name}/json").status == 404, "its removal"
    )


def test_ports_answer_all_the_time(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box("-p", "80", BUSYBOX, "sh", "-c", "echo hi > /index.html; exec httpd -f -h /")
    port = int(mortal.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])

    def page() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", "/index.html")
            return connection.getresponse().read()
        except OSError:
            return b""
        finally:
            connection.close()

    polling.until(lambda: page() == b"hi\n", "the server")
    mortal.kill_daemons()
    assert page() == b"hi\n"
    mortal.start()
    assert page() == b"hi\n"
    assert int(mortal.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]) == port


def test_daemons_come_back_by_themselves(mortal: OwnEngine, box: Callable[..., str]) -> None:
    lifecycle, zygote = mortal.lifecycle_pid(), mortal.zygote_pid()
    mortal.kill_zygote()
    polling.until(lambda: mortal.zygote_pid() != zygote, "another zygote")
    box(BUSYBOX, "sleep", "100")
    mortal.kill_lifecycle()
    polling.until(lambda: mortal.lifecycle_pid() != lifecycle, "another lifecycle")
    box(BUSYBOX, "sleep", "100")


def test_calls_wait_while_lifecycle_comes_back(mortal: OwnEngine) -> None:
    mortal.kill_lifecycle()
    assert mortal.docker("run", "--rm", BUSYBOX, "echo", "x").stdout == "x\n"


def test_dead_shim_is_an_exited_container(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box(BUSYBOX, "sh", "-c", COUNTER)
    pid = mortal.inspect(name)["State"]["Pid"]
    census.kill(mortal.shim_pid(name))
    mortal.wait_status(name, "exited")
    assert mortal.inspect(name)["State"]["ExitCode"] in (137, 255)
    polling.until(lambda: not Path(f"/proc/{pid}").exists(), "the container's processes to end")
    mortal.docker("start", name)
    assert mortal.status(name) == "running"
    mortal.docker("rm", "-f", name)


def test_shim_that_dies_with_all_daemons(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box(BUSYBOX, "sleep", "1000")
    shim = mortal.shim_pid(name)
    mortal.kill_daemons()
    census.kill(shim)
    mortal.start()
    mortal.wait_status(name, "exited")
    assert mortal.inspect(name)["State"]["Running"] is False
    mortal.docker("start", name)


def test_killed_init_is_137(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box(BUSYBOX, "sleep", "1000")
    census.kill(mortal.inspect(name)["State"]["Pid"])
    mortal.wait_status(name, "exited")
    state = mortal.inspect(name)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (137, False)


def test_reboot(mortal: OwnEngine, box: Callable[..., str]) -> None:
    running, stopped = box("-p", "80", BUSYBOX, "sleep", "1000"), box(BUSYBOX, "sh", "-c", "exit 3")
    mortal.wait_status(stopped, "exited")
    mortal.docker("exec", running, "touch", "/kept")
    address = mortal.inspect(running)["NetworkSettings"]["IPAddress"]
    assert address
    mortal.reboot()
    assert mortal.inspect(stopped)["State"]["ExitCode"] == 3
    state = mortal.inspect(running)["State"]
    assert (state["Status"], state["Running"], state["Pid"]) == ("exited", False, 0)
    assert not re.match("0001", state["FinishedAt"])
    mortal.docker("start", running)
    assert mortal.docker("exec", running, "ls", "/kept").stdout == "/kept\n"


def test_stop_leaves_containers_running(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box(BUSYBOX, "sleep", "1000")
    pid = mortal.inspect(name)["State"]["Pid"]
    mortal.restart()
    assert mortal.inspect(name)["State"]["Pid"] == pid
    assert mortal.docker("exec", name, "echo", "x").stdout == "x\n"


def test_load_killed_in_the_middle(mortal: OwnEngine) -> None:
    tag = f"{fresh_name()}:1"
    archive = docker_archive([tag], [Layer().file("big", os.urandom(30_000_000)).tar()])
    pipe = subprocess.PIPE
    with subprocess.Popen([mortal.cli, "load"], stdin=pipe, stderr=pipe, env=mortal.env) as loader:
        assert loader.stdin
        loader.stdin.write(archive[: len(archive) // 2])
        loader.stdin.flush()
        mortal.kill_daemons()
        loader.kill()
    mortal.start()
    assert mortal.api("GET", f"/images/{tag}/json").status == 404
    again = subprocess.run(
        [mortal.cli, "load"], input=archive, env=mortal.env, capture_output=True, timeout=50
    )
    assert tag in again.stdout.decode(), again.stderr
    mortal.docker("rmi", tag)


def test_second_engine_on_the_same_roots_is_refused(mortal: OwnEngine) -> None:
    done = subprocess.run(
        mortal.command(), capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0
    assert str(mortal.exec_root) in done.stderr
    assert mortal.responds()


def test_start_time_is_kept(mortal: OwnEngine, box: Callable[..., str]) -> None:
    name = box(BUSYBOX, "sleep", "1000")
    started = mortal.inspect(name)["State"]["StartedAt"]
    mortal.kill_daemons()
    mortal.start()
    assert mortal.inspect(name)["State"]["StartedAt"] == started
