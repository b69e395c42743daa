"""Test support: an engine on a host of its own, with a neighbour on the host's LAN.

Host and neighbour are network namespaces, so that other engines' firewalls on the machine do not
matter, and nothing that the engine does to the network outlives it. The engine's API is a unix
socket, which namespaces do not hide.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import netlink, netns
from common.netlink import Netlink
from tests.engine import OwnEngine, fresh_name
from tests.polling import PATIENCE
from tests.root.network_lab import Machine, cable, machine

HOST, PEER, HOST6, PEER6 = "198.51.100.1", "198.51.100.2", "fd99::1", "fd99::2"


class LabEngine(OwnEngine):
    def __init__(self, scratch: Path, host: Machine, peer: Machine) -> None:
        super().__init__(scratch)
        self.machine = host
        self.peer = peer

    def command(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.machine.pid}/ns/net", *super().command()]

    def network(self, container: str, name: str) -> Any:
        return self.inspect(container)["NetworkSettings"]["Networks"][name]

    @contextmanager
    def made_network(self, *options: str) -> Iterator[str]:
        """A network of its own; whoever is still on it at the end is removed with it."""
        name = fresh_name()
        self.docker("network", "create", *options, name)
        yield name
        for member in self.api("GET", f"/networks/{name}").json()["Containers"]:
            self.api("DELETE", f"/containers/{member}?force=1")
        self.docker("network", "rm", name)

    def is_up(self) -> bool:
        """Both of its processes answer."""
        return self.responds() and self.api("GET", "/containers/json").status == 200

    @contextmanager
    def inside(self, container: str) -> Iterator[None]:
        """The calling thread is in the container's network namespace."""
        namespace = netns.open_of(self.inspect(container)["State"]["Pid"])
        try:
            with netns.entered(namespace):
                yield
        finally:
            os.close(namespace)


@contextmanager
def lab(scratch: Path) -> Iterator[LabEngine]:
    with machine() as host, machine() as peer:
        with netns.entered(host.namespace):
            with Netlink() as links:
                links.execute(netlink.set_up(1, "lo"))
            cable(peer, name="lan0", host_address=f"{HOST}/24", address=f"{PEER}/24", gateway=HOST)
            _add_ipv6("lan0", f"{HOST6}/64")
        with netns.entered(peer.namespace):
            _add_ipv6("eth0", f"{PEER6}/64", HOST6)
        engine = LabEngine(scratch, host, peer)
        try:
            engine.start()
            engine.load_busybox()
            yield engine
        finally:
            engine.destroy()


def _add_ipv6(name: str, address: str, gateway: str = "") -> None:
    with Netlink() as links:
        link = links.link(name)
        assert link is not None
        links.execute(netlink.add_address(link.index, address))
        if gateway:
            links.execute(netlink.add_route(link.index, "default", gateway))


A, PTR, AAAA = 1, 12, 28
LOOKUP_SECONDS = 10.0  # the resolver gives up after four


def lookup(name: str, kind: int = A, *, tcp: bool = False) -> tuple[int, list[str]]:
    """Ask 127.0.0.11 in the namespace that the thread is in: the code and the records."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0"
    query += struct.pack(">HH", kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
        client.settimeout(LOOKUP_SECONDS * PATIENCE)
        client.connect(("127.0.0.11", 53))
        if tcp:
            client.sendall(struct.pack(">H", len(query)) + query)
            data = client.recv(65535)
            while len(data) < 2 + int.from_bytes(data[:2]):
                data += client.recv(65535)
            data = data[2:]
        else:
            client.send(query)
            data = client.recv(65535)
    assert data[:2] == query[:2]
    assert data[12 : len(query)] == query[12:]
    return data[3] & 15, _records(data, len(query), int.from_bytes(data[6:8]))


def _records(data: bytes, offset: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        kind, size = struct.unpack_from(">2xHxxxxxxH", data, offset)
        value = data[offset + 12 : offset + 12 + size]
        offset += 12 + size
        if kind == A:
            found.append(socket.inet_ntop(socket.AF_INET, value))
        elif kind == AAAA:
            found.append(socket.inet_ntop(socket.AF_INET6, value))
        else:
            found.append(_name(value))
    return found


def _name(value: bytes) -> str:
    labels = []
    while value[0]:
        labels.append(value[1 : 1 + value[0]].decode())
        value = value[1 + value[0] :]
    return ".".join(labels)


@contextmanager
def dns_server(at: Machine, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """A server at ``at``'s LAN address; it gives what ``answer`` makes of a query."""
    stop = threading.Event()
    with ExitStack() as stack:
        with netns.entered(at.namespace):
            datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            streams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        for one in (datagrams, streams):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((PEER, 53))
            one.settimeout(0.1)
        streams.listen()

        def serve_datagrams() -> None:
            while not stop.is_set():
                try:
                    query, client = datagrams.recvfrom(4096)
                except TimeoutError:
                    continue
                response = answer(query)
                if response is not None:
                    datagrams.sendto(response, client)

        def serve_streams() -> None:
            while not stop.is_set():
                try:
                    client, _ = streams.accept()
                except TimeoutError:
                    continue
                with client:
                    response = answer(client.recv(4096)[2:])
                    if response is not None:
                        client.sendall(struct.pack(">H", len(response)) + response)

        threads = [threading.Thread(target=work) for work in (serve_datagrams, serve_streams)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def addresses_answer(query: bytes, *addresses: str) -> bytes:
    """A response to an A query with ``addresses``."""
    header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(addresses), 0, 0)
    records = (
        b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + socket.inet_aton(address)
        for address in addresses
    )
    return header + query[12:] + b"".join(records)
