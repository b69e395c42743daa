"""Throughput of a published port: from the host's loopback, and from another container.

The sender is in the container, static busybox; the reader is this process, whose socket lives in
the namespace that the bytes are to arrive in.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.job import Figures, Job, milliseconds
from common import netns

BYTES = 2 << 30
BLOCK = 64 * 1024
PORT = 9000
SENDER = ("nc", "-ll", "-p", str(PORT), "-e", "dd", "if=/dev/zero", f"bs={BLOCK}")
READY_SECONDS = 10.0


class PortThroughput(Job):
    name = "port-2gb"
    what = f"{BYTES >> 20} MB out of a container by a published port, read on 127.0.0.1"
    samples = 1
    target = 1.0

    @contextmanager
    def prepared(self) -> Iterator[None]:
        bindings = {f"{PORT}/tcp": [{"HostPort": ""}]}
        count = f"count={BYTES // BLOCK}"
        self.container = self.endpoint.start(*SENDER, count, PortBindings=bindings)
        other = self.endpoint.start("sleep", "100000")
        found = self.endpoint.inspect(self.container)["NetworkSettings"]
        self.port = int(found["Ports"][f"{PORT}/tcp"][0]["HostPort"])
        self.gateway = str(found["Networks"]["bridge"]["Gateway"])
        self.neighbour = netns.open_of(self.endpoint.inspect(other)["State"]["Pid"])
        yield
        os.close(self.neighbour)
        for container in (self.container, other):
            self.endpoint.remove(container)

    def measure(self) -> Figures:
        return {
            "": milliseconds(lambda: read_all(socket.socket(), "127.0.0.1", self.port)),
            "from another container by the host": milliseconds(self._by_the_host),
        }

    def _by_the_host(self) -> None:
        with netns.entered(self.neighbour):
            reader = socket.socket()
        read_all(reader, self.gateway, self.port)


def read_all(reader: socket.socket, address: str, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    buffer = bytearray(1 << 20)
    with reader:
        reader.settimeout(READY_SECONDS)
        reader.connect((address, port))
        length = 0
        while count := reader.recv_into(buffer):
            length += count
    if length == 0 and time.monotonic() < deadline:
        # A relay accepts before the server listens.
        raise RuntimeError("the connection was closed at once")
    if length != BYTES:
        raise RuntimeError(f"{length} bytes instead of {BYTES}")
