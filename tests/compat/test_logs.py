"""``docker logs`` and GET /containers/{id}/logs."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine
from tests.rawhttp import Hijacked

Runner = Callable[..., str]
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


def finished(engine: Engine, running: Runner, script: str, *options: str) -> str:
    name = running(*options, BUSYBOX, "sh", "-c", script)
    engine.docker("wait", name)
    return name


def test_both_streams(engine: Engine, running: Runner) -> None:
    done = engine.docker("logs", finished(engine, running, "echo out; echo err >&2"))
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_terminal(engine: Engine, running: Runner) -> None:
    assert engine.docker("logs", finished(engine, running, "echo x", "-t")).stdout == "x\r\n"


@pytest.mark.parametrize(("tail", "lines"), [("all", 10), ("3", 3), ("0", 0), ("100", 10)])
def test_tail(engine: Engine, running: Runner, tail: str, lines: int) -> None:
    name = finished(engine, running, "seq 10")
    expected = [str(number) for number in range(1, 11)][10 - lines :]
    assert engine.docker("logs", "--tail", tail, name).stdout.split() == expected


def test_timestamps(engine: Engine, running: Runner) -> None:
    lines = engine.docker("logs", "-t", finished(engine, running, "seq 3")).stdout.splitlines()
    assert [re.fullmatch(rf"{STAMP} (\d)", line)[1] for line in lines] == ["1", "2", "3"]  # type: ignore[index]
    stamps = [line.split()[0] for line in lines]
    assert stamps == sorted(stamps)


def test_since_and_until(engine: Engine, running: Runner) -> None:
    """Each line is of another run: lines that are written soon after another may come as one."""
    name = finished(engine, running, "echo x >>/lines; wc -l </lines")
    for _ in range(2):
        engine.docker("start", "-a", name)
    stamps = [line.split()[0] for line in engine.docker("logs", "-t", name).stdout.splitlines()]
    assert engine.docker("logs", "--since", stamps[1], name).stdout == "2\n3\n"
    assert engine.docker("logs", "--until", stamps[1], name).stdout == "1\n2\n"


def test_long_lines_are_whole(engine: Engine, running: Runner) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short"
    lines = engine.docker("logs", finished(engine, running, script)).stdout.splitlines()
    assert lines == ["x" * 100000, "short"]


def test_last_line_without_an_end(engine: Engine, running: Runner) -> None:
    assert engine.docker("logs", finished(engine, running, "printf 'a\\nb'")).stdout == "a\nb"


def test_hostile_bytes(engine: Engine, running: Runner) -> None:
    name = finished(engine, running, r"""printf 'a"b\\c\033[1m\001\t\342\200\250\n'""")
    assert engine.docker("logs", name).stdout == 'a"b\\c\x1b[1m\x01\t\u2028\n'


def test_follow_ends_with_the_container(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert engine.docker("logs", "-f", name).stdout == "1\n2\n3\n4\n5\n"


def test_follow_across_a_restart(engine: Engine, running: Runner) -> None:
    name = finished(engine, running, "echo run")
    engine.docker("start", name)
    assert engine.docker("logs", "-f", name).stdout == "run\nrun\n"


def test_heads_come_before_the_first_line(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sleep", "100")
    with get(engine, f"/containers/{name}/logs?follow=1&stdout=1") as stream:
        assert stream.status == 200
        assert stream.header("content-type") == "application/vnd.docker.multiplexed-stream"
        assert stream.header("transfer-encoding") == "chunked"


def get(engine: Engine, target: str) -> Hijacked:
    """A GET whose answer is read as it comes."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(engine.socket))
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(65536)
    head, _, rest = received.partition(b"\r\n\r\n")
    return Hijacked(sock, head.decode(), rest)


def test_many_lines_in_order(engine: Engine, running: Runner) -> None:
    name = finished(engine, running, "seq 200000")
    expected = "".join(f"{number}\n" for number in range(1, 200001))
    assert engine.docker("logs", name).stdout == expected


def test_rotation(engine: Engine, running: Runner) -> None:
    options = ("--log-opt", "max-size=20k", "--log-opt", "max-file=3")
    name = finished(engine, running, "seq 2000", *options)
    numbers = [int(line) for line in engine.docker("logs", name).stdout.split()]
    assert numbers == list(range(numbers[0], 2001))
    assert len(numbers) > 200


def test_follow_sees_every_line_across_rotation(engine: Engine, running: Runner) -> None:
    options = ("--log-opt", "max-size=50k", "--log-opt", "max-file=5")
    script = (
        "for tens in $(seq 0 39); do seq $((tens * 50 + 1)) $((tens * 50 + 50)); sleep 0.02; done"
    )
    name = running(*options, BUSYBOX, "sh", "-c", script)
    lines = engine.docker("logs", "-f", name).stdout.split()
    assert lines == [str(number) for number in range(1, 2001)]


def test_log_driver_none(engine: Engine, name: str) -> None:
    done = engine.docker("run", "--name", name, "--log-driver", "none", BUSYBOX, "echo", "x")
    assert done.stdout == "x\n"
    answer = engine.api("GET", f"/containers/{name}/logs?stdout=1")
    assert (answer.status, answer.message) == (
        501,
        "configured logging driver does not support reading",
    )


def test_log_of_a_removed_container_is_no_more(engine: Engine, running: Runner) -> None:
    name = finished(engine, running, "echo x")
    path = engine.inspect(name)["LogPath"]
    assert path.endswith("-json.log")
    engine.docker("rm", name)
    polling.until(
        lambda: engine.docker("logs", name, check=False).returncode == 1, "the log to be gone"
    )
