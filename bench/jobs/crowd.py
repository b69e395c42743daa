"""A network with many containers: how fast names are found there, and how fast one more starts.

The questions are asked by this process, by sockets that live in containers' namespaces, to the
server that containers are told to ask.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from time import perf_counter

from bench.job import Figures, Job, milliseconds
from common import netns

CONTAINERS = 200
ASKING = 10  # of them
LOOKUPS = 2000  # in a sample
IN_FLIGHT = 8
TIMEOUT = 5.0
NOBODY = "sleep", "100000"
A, IN = 1, 1


class _Crowd(Job):
    """``CONTAINERS`` containers on a network, whose names are known."""

    @contextmanager
    def crowd(self) -> Iterator[str]:
        with self.endpoint.network() as network:
            self.names = [f"{network}-{number}" for number in range(CONTAINERS)]
            self.containers: list[str] = []
            try:
                for name in self.names:
                    self.containers.append(
                        self.endpoint.start(*NOBODY, name=name, NetworkMode=network)
                    )
                yield network
            finally:
                for container in self.containers:
                    self.endpoint.remove(container)


class Names(_Crowd):
    name = "names-of-200"
    what = f"lookup of a name of one of {CONTAINERS} containers; {IN_FLIGHT} at once from one"
    unit = "us"
    samples = 1
    target = 1.0

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with self.crowd(), ExitStack() as stack:
            self.clients = []
            for container in self.containers[:ASKING]:
                namespace = netns.open_of(self.endpoint.inspect(container)["State"]["Pid"])
                stack.callback(os.close, namespace)
                with netns.entered(namespace):
                    sockets = [
                        stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                        for _ in range(IN_FLIGHT)
                    ]
                for client in sockets:
                    client.connect(("127.0.0.11", 53))
                    client.settimeout(TIMEOUT)
                self.clients.append(sockets)
            yield

    def measure(self) -> Figures:
        taken = []
        for _ in range(LOOKUPS):
            client = random.choice(self.clients)[0]
            query = question(random.choice(self.names))
            begin = perf_counter()
            client.send(query)
            answer = client.recv(512)
            taken.append((perf_counter() - begin) * 1e6)
            check(query, answer)
        hundredths = quantiles(taken, n=100)
        return {
            "": self._at_once() / LOOKUPS * 1e6,
            "one by one, median": hundredths[49],
            "one by one, 99th percentile": hundredths[98],
        }

    def _at_once(self) -> float:
        """Seconds for all lookups from one container, ``IN_FLIGHT`` of them under way at a time."""
        poller = select.epoll()
        queries = iter([question(random.choice(self.names)) for _ in range(LOOKUPS)])
        waiting: dict[int, tuple[socket.socket, bytes]] = {}
        begin = perf_counter()
        for client in random.choice(self.clients):
            query = next(queries)
            waiting[client.fileno()] = (client, query)
            poller.register(client, select.EPOLLIN)
            client.send(query)
        while waiting:
            events = poller.poll(TIMEOUT)
            if not events:
                raise RuntimeError(f"no answer to {len(waiting)} questions")
            for descriptor, _ in events:
                client, query = waiting.pop(descriptor)
                check(query, client.recv(512))
                following = next(queries, None)
                if following is not None:
                    waiting[descriptor] = (client, following)
                    client.send(following)
        taken = perf_counter() - begin
        poller.close()
        return taken


class StartInCrowd(_Crowd):
    name = "start-in-200"
    what = f"start call on a network with {CONTAINERS} running containers"
    samples = 10

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with self.crowd() as self.crowded, self.endpoint.network() as self.empty:
            yield

    def measure(self) -> Figures:
        figures = {"": self.crowded, "the same on an empty network": self.empty}
        # In changing order, because what comes second finds the machine as the first has left it.
        order = random.sample(list(figures), 2)
        taken = {figure: self._start(figures[figure]) for figure in order}
        return {figure: taken[figure] for figure in figures}

    def _start(self, network: str) -> float:
        container = self.endpoint.create(*NOBODY, NetworkMode=network)
        taken = milliseconds(lambda: self.endpoint.call("POST", f"/containers/{container}/start"))
        self.endpoint.remove(container)
        return taken


def question(name: str) -> bytes:
    encoded = name.encode()
    header = struct.pack(">HHHHHH", random.getrandbits(16), 0x0100, 1, 0, 0, 0)
    return header + bytes([len(encoded)]) + encoded + b"\0" + struct.pack(">HH", A, IN)


def check(query: bytes, answer: bytes) -> None:
    if answer[:2] != query[:2] or answer[3] & 15 or answer[6:8] != b"\0\1":
        raise RuntimeError(f"{query!r} was answered by {answer!r}")
