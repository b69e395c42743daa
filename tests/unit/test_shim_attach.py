"""shim/attach.py, detach.py and stdio.py with real sockets and pipes, without a container."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from shim import attach
from shim.attach import STDERR, STDOUT, AttachOptions
from shim.detach import DetachDetector
from shim.loop import Loop
from shim.stdio import ProcessStreams

DEADLINE = 20.0
EVERYTHING = AttachOptions(stdin=True, stdout=True, stderr=True)


@pytest.mark.parametrize(
    ("pieces", "passed", "detached"),
    [
        ([b"ls\n"], b"ls\n", False),
        ([b"\x10\x11"], b"", True),
        ([b"ab\x10", b"\x11cd"], b"ab", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x10\x10\x10", b"y"], b"\x10\x10\x10y", False),
        ([b"before\x10\x11after"], b"before", True),
    ],
)
def test_detach_keys(pieces: list[bytes], passed: bytes, detached: bool) -> None:
    detector = DetachDetector(b"\x10\x11")
    out, found = b"", False
    for piece in pieces:
        data, found = detector.feed(piece)
        out += data
    assert (out, found) == (passed, detached)


def test_detach_keys_with_a_repeating_prefix() -> None:
    detector = DetachDetector(b"aab")
    assert [detector.feed(bytes([c])) for c in b"aaab"] == [
        (b"", False),
        (b"", False),
        (b"a", False),
        (b"", True),
    ]


def test_no_detach_keys_and_flush() -> None:
    assert DetachDetector(b"").feed(b"\x10\x11") == (b"\x10\x11", False)
    detector = DetachDetector(b"\x10\x11")
    assert detector.feed(b"x\x10") == (b"x", False)
    assert detector.flush() == b"\x10"


class Bench:
    """A loop with streams whose "process" is the test."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.detached = 0
        self.streams = ProcessStreams(
            self.loop, on_detach=self._detach, on_client_gone=lambda: None
        )
        self.stdin = self.stdout = self.stderr = -1
        self._sockets: list[socket.socket] = []

    def _detach(self) -> None:
        self.detached += 1

    def start(self, *, stdin_once: bool = False) -> None:
        fds = self.streams.open_pipes(stdin=True)
        self.stdin, self.stdout, self.stderr = (os.dup(fd) for fd in fds)
        os.set_blocking(self.stdin, False)
        self.streams.close_child_ends()
        self.streams.begin(None, stdin_once=stdin_once)

    def client(self, options: AttachOptions = EVERYTHING) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE)
        self._sockets.append(ours)
        self.streams.attach(theirs, options)
        return ours

    def turn(self, until: Callable[[], bool]) -> None:
        """Run the loop until the condition holds."""
        deadline = time.monotonic() + DEADLINE

        def step() -> bool:
            if until() or time.monotonic() > deadline:
                self.loop.stop()
                return False
            return True

        self.loop.when_idle(step)
        self.loop.run()
        assert until()

    def close(self) -> None:
        self.streams.close()
        self.streams.drop_clients()
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        for sock in self._sockets:
            sock.close()
        self.loop.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def readable(sock: socket.socket | int) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def read_stdin(bench: Bench, size: int) -> bytes:
    data = b""
    while len(data) < size:
        bench.turn(lambda: readable(bench.stdin))
        data += os.read(bench.stdin, size - len(data))
    return data


def test_frames_and_streams(bench: Bench) -> None:
    bench.start()
    framed = bench.client(AttachOptions(stdout=True, stderr=True, framed=True))
    only_stderr = bench.client(AttachOptions(stderr=True))
    os.write(bench.stdout, b"out")
    bench.turn(lambda: readable(framed))
    os.write(bench.stderr, b"err!")
    bench.turn(lambda: readable(only_stderr))
    header = struct.Struct(">BxxxL")
    expected = header.pack(STDOUT, 3) + b"out" + header.pack(STDERR, 4) + b"err!"
    received = b""
    while len(received) < len(expected):
        received += framed.recv(100)
    assert received == expected
    assert only_stderr.recv(100) == b"err!"


def test_early_bytes_come_first_and_wait_for_the_start(bench: Bench) -> None:
    client = bench.client(AttachOptions(stdin=True, early=b"early,"))
    client.sendall(b"later")
    bench.start()
    assert read_stdin(bench, 11) == b"early,later"


def test_half_close_ends_stdin_but_not_the_output(bench: Bench) -> None:
    bench.start(stdin_once=True)
    client = bench.client()
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    assert read_stdin(bench, 3) == b"bye"
    bench.turn(lambda: readable(bench.stdin))
    assert os.read(bench.stdin, 10) == b""
    os.write(bench.stdout, b"answer")
    bench.turn(lambda: readable(client))
    assert client.recv(100) == b"answer"
    bench.streams.finish()
    assert client.recv(100) == b""


def test_half_close_without_stdin_once_ends_the_attachment(bench: Bench) -> None:
    bench.start()
    client = bench.client()
    client.sendall(b"x")
    client.shutdown(socket.SHUT_WR)
    bench.turn(lambda: not bench.streams.clients)
    assert read_stdin(bench, 1) == b"x"
    assert client.recv(100) == b""
    second = bench.client()
    second.sendall(b"y")
    assert read_stdin(bench, 1) == b"y"


def test_client_without_stdin_may_close_its_side(bench: Bench) -> None:
    bench.start()
    client = bench.client(AttachOptions(stdout=True))
    client.shutdown(socket.SHUT_WR)
    os.write(bench.stdout, b"1")
    bench.turn(lambda: readable(client))
    assert client.recv(10) == b"1"
    client.close()
    bench.turn(lambda: not bench.streams.clients)


def test_input_waits_for_a_process_that_does_not_read(bench: Bench) -> None:
    bench.start(stdin_once=True)
    client = bench.client()
    client.setblocking(False)
    sent = 0

    def full() -> bool:
        nonlocal sent
        try:
            sent += client.send(b"i" * 65536)
        except BlockingIOError:
            return not bench.streams.accepts_input
        return False

    bench.turn(full)
    assert sent < 4 * 1024 * 1024
    client.close()
    assert read_stdin(bench, sent) == b"i" * sent
    bench.turn(lambda: readable(bench.stdin))
    assert os.read(bench.stdin, 1) == b""
    assert not bench.streams.clients


def test_slow_client_pauses_output_and_gets_all(bench: Bench) -> None:
    bench.start()
    client, other = bench.client(), bench.client()
    total = 6 * 1024 * 1024
    os.set_blocking(bench.stdout, False)
    written = 0
    received = {client: 0, other: 0}

    def pump(*readers: socket.socket) -> None:
        nonlocal written
        try:
            if written < total:
                written += os.write(bench.stdout, b"o" * min(65536, total - written))
        except BlockingIOError:
            pass
        for reader in readers:
            if readable(reader):
                received[reader] += len(reader.recv(1 << 20))

    def stuck() -> bool:
        pump(other)
        return any(each.full for each in bench.streams.clients)

    bench.turn(stuck)
    assert written < total

    def done() -> bool:
        pump(client, other)
        return received == {client: total, other: total}

    bench.turn(done)


def test_stuck_client_is_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "STALL_SECONDS", 0.1)
    bench.start()
    client = bench.client()
    os.set_blocking(bench.stdout, False)

    def gone() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.write(bench.stdout, b"o" * 65536)
        return not bench.streams.clients

    bench.turn(gone)
    received = 0
    while data := client.recv(1 << 20):
        received += len(data)
    assert received > 0


def test_client_that_sends_at_the_end_sees_a_clean_end(bench: Bench) -> None:
    bench.start()
    client = bench.client(AttachOptions(stdin=True, stdout=True))
    os.write(bench.stdout, b"last words")
    bench.turn(lambda: readable(client))
    client.sendall(b"nobody reads this")
    bench.streams.finish()
    client.sendall(b"nor this")
    bench.turn(lambda: readable(client))
    assert client.recv(100) == b"last words"
    assert client.recv(100) == b""
    client.close()
    bench.turn(lambda: not bench.streams.clients)
