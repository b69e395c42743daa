"""Clients that stop reading, or vanish: containers go on, and no daemon keeps what is not taken.

For attach see also test_attach.py and tests/unit/test_shim_attach.py, for stats and the event log
tests/unit/test_slow_readers.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine import BUSYBOX, OwnEngine

MIB = 1 << 20


@contextmanager
def stalled(engine: OwnEngine, target: str) -> Iterator[socket.socket]:
    """A client that has read the first byte of its answer, and reads no more."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(str(engine.socket))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        assert client.recv(1)
        yield client


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is gone")


@contextmanager
def grows_little(engine: OwnEngine, limit: int = 6 * MIB) -> Iterator[None]:
    assert engine.process
    pid = engine.process.pid
    before = resident(pid)
    yield
    assert resident(pid) - before < limit


@pytest.mark.parametrize("vanishes", [False, True])
def test_followed_log(own_engine: OwnEngine, name: str, vanishes: bool) -> None:
    engine = own_engine
    script = f"read x; yes {'y' * 100} | head -c 30000000"
    engine.docker("create", "-i", "--name", name, BUSYBOX, "sh", "-c", script)
    with engine.hijack(f"/containers/{name}/attach?stream=1&stdin=1") as stdin:
        engine.docker("start", name)
        target = f"/containers/{name}/logs?follow=1&stdout=1&tail=all"
        with stalled(engine, target) as client, grows_little(engine):
            if vanishes:
                client.close()
            stdin.send(b"\n")
            engine.wait_status(name, "exited", timeout=40)
            assert engine.inspect(name)["State"]["ExitCode"] == 0


@pytest.mark.parametrize("vanishes", [False, True])
def test_events(own_engine: OwnEngine, name: str, vanishes: bool) -> None:
    engine = own_engine
    # The events have the labels, so that few of them fill any buffer.
    body = {"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "Labels": {"long": "y" * 60000}}
    engine.api("POST", f"/containers/create?name={name}", body)
    engine.api("POST", f"/containers/{name}/start")
    target = f"/containers/{name}/kill?signal=WINCH"
    with stalled(engine, "/events") as client, grows_little(engine):
        if vanishes:
            client.close()
        for _ in range(150):  # 9 MB
            assert engine.api("POST", target).status == 204


def test_log_of_the_past(own_engine: OwnEngine, name: str) -> None:
    engine = own_engine
    engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", "yes yyyyyyy | head -c 8000000")
    with grows_little(engine), stalled(engine, f"/containers/{name}/logs?stdout=1"):
        # Somebody else's request is served meanwhile.
        assert engine.docker("logs", "-n", "1", name).stdout == "yyyyyyy\n"
