"""Attach on the wire: framing, heads, half-closes, replay, and clients that come and go."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from typing import Any

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine

Runner = Callable[..., str]
ALL = "stream=1&stdin=1&stdout=1&stderr=1"


def create(engine: Engine, name: str, *command: str, **config: Any) -> None:
    body = {"Image": BUSYBOX, "Cmd": list(command), **config}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201


def test_before_the_start_nothing_is_lost(engine: Engine, name: str) -> None:
    create(engine, name, "sh", "-c", "echo out; sleep 0.1; echo err >&2")
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1&stderr=1") as stream:
        head = stream.head.split("\r\n")
        assert head[0] == "HTTP/1.1 101 UPGRADED"
        assert stream.header("content-type") == "application/vnd.docker.multiplexed-stream"
        assert (stream.header("connection"), stream.header("upgrade")) == ("Upgrade", "tcp")
        assert stream.header("content-length") is stream.header("transfer-encoding") is None
        engine.api("POST", f"/containers/{name}/start")
        assert list(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]


def test_without_upgrade(engine: Engine, name: str) -> None:
    create(engine, name, "echo", "x")
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1", upgrade=False) as stream:
        assert stream.head.startswith("HTTP/1.1 200 OK\r\n")
        assert stream.header("content-type") == "application/vnd.docker.raw-stream"
        engine.api("POST", f"/containers/{name}/start")
        assert list(stream.frames()) == [(1, b"x\n")]


def test_terminal_is_not_framed(engine: Engine, name: str) -> None:
    create(engine, name, "echo", "x", Tty=True)
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1") as stream:
        assert stream.header("content-type") == "application/vnd.docker.raw-stream"
        engine.api("POST", f"/containers/{name}/start")
        assert stream.read_all() == b"x\r\n"


def test_only_the_streams_asked_for(engine: Engine, name: str) -> None:
    create(engine, name, "sh", "-c", "echo out; echo err >&2")
    with engine.hijack(f"/containers/{name}/attach?stream=1&stderr=1") as stream:
        engine.api("POST", f"/containers/{name}/start")
        assert list(stream.frames()) == [(2, b"err\n")]


def test_stdin_once_ends_with_its_client(engine: Engine, name: str) -> None:
    create(engine, name, "cat", OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with engine.hijack(f"/containers/{name}/attach?{ALL}") as stream:
        engine.api("POST", f"/containers/{name}/start")
        stream.send(b"one\n")
        stream.half_close()
        assert list(stream.frames()) == [(1, b"one\n")]
    engine.wait_status(name, "exited")


def test_open_stdin_stays_open(engine: Engine, name: str) -> None:
    create(engine, name, "cat", OpenStdin=True)
    engine.api("POST", f"/containers/{name}/start")
    for text in (b"one\n", b"two\n"):
        with engine.hijack(f"/containers/{name}/attach?{ALL}") as stream:
            stream.send(text)
            assert next(stream.frames()) == (1, text)
    assert engine.status(name) == "running"


def test_every_client_gets_everything(engine: Engine, name: str) -> None:
    create(engine, name, "seq", "20000")
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1"))
            for _ in range(4)
        ]
        engine.api("POST", f"/containers/{name}/start")
        expected = b"".join(b"%d\n" % number for number in range(1, 20001))
        for stream in streams:
            assert b"".join(content for _, content in stream.frames()) == expected


def test_replay_of_the_log(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sh", "-c", "echo past; sleep 1000")
    polling.until(lambda: engine.docker("logs", name).stdout == "past\n", "the line in the log")
    with engine.hijack(f"/containers/{name}/attach?logs=1&stdout=1") as stream:
        assert list(stream.frames()) == [(1, b"past\n")]


def test_client_that_leaves_does_no_harm(engine: Engine, running: Runner) -> None:
    name = running("-i", BUSYBOX, "sh", "-c", "while :; do echo x; sleep 0.01; done")
    for _ in range(5):
        with engine.hijack(f"/containers/{name}/attach?{ALL}") as stream:
            stream.read_until(b"x\n")
    assert engine.status(name) == "running"


def test_client_that_never_reads_blocks_nobody(
    engine: Engine, own_engine: OwnEngine, name: str
) -> None:
    # Docker Engine stops writing to the others too.
    create(engine, name, "sh", "-c", "yes | head -c 3000000")
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1"):
        reader = engine.hijack(f"/containers/{name}/attach?stream=1&stdout=1")
        with reader:
            engine.api("POST", f"/containers/{name}/start")
            received = sum(len(content) for _, content in reader.frames())
        assert received == 3000000
        engine.wait_status(name, "exited")


def test_docker_attach(engine: Engine, running: Runner) -> None:
    name = running("-i", BUSYBOX, "sh")
    with engine.spawn("attach", name, stdin=subprocess.PIPE) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(b"echo from the shell\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"from the shell\n"
        client.stdin.write(b"exit 3\n")
        client.stdin.flush()
        # The end of the container ends the client, not the end of its input.
        assert client.stdout.read() == b""
    assert client.returncode == 3


def test_docker_attach_forwards_signals(engine: Engine, running: Runner) -> None:
    script = "trap 'echo caught; exit 3' TERM; while :; do echo up; sleep 0.05; done"
    name = running(BUSYBOX, "sh", "-c", script)
    with engine.spawn("attach", name) as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        client.terminate()
        rest = client.stdout.read()
    assert rest.endswith(b"caught\n")
    assert client.returncode == 3
