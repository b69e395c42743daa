"""shim/portproxy.py between two sockets of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from shim.loop import Loop
from shim.portproxy import PortProxy, PublishedPort, hold_all

DEADLINE = 20.0


class Proxy:
    """A proxy whose loop runs in a thread, with one listener."""

    def __init__(self, proto: str, target_port: int) -> None:
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        bound = socket.socket(socket.AF_INET, kind)
        bound.bind(("127.0.0.1", 0))
        if proto == "tcp":
            bound.listen()
        self.address = bound.getsockname()
        self._loop = Loop()
        self._proxy = PortProxy(self._loop)
        hold_all(self._proxy, [PublishedPort(proto, "127.0.0.1", target_port)], [bound.detach()])
        self._wake, theirs = socket.socketpair()
        self._theirs = theirs
        self._loop.add(theirs.fileno(), 1, lambda _events: self._loop.stop())
        self._thread = threading.Thread(target=self._loop.run)
        self._thread.start()

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join(DEADLINE)
        self._proxy.close()
        self._wake.close()
        self._theirs.close()
        self._loop.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        yield listener


@pytest.fixture
def proxy(server: socket.socket) -> Iterator[Proxy]:
    proxy = Proxy("tcp", server.getsockname()[1])
    yield proxy
    proxy.close()


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def test_relay_both_ways_with_half_close(proxy: Proxy, server: socket.socket) -> None:
    payload = bytes(range(256)) * 20_000
    with socket.create_connection(proxy.address, timeout=DEADLINE) as client:
        inside, _ = server.accept()
        with inside:
            inside.settimeout(DEADLINE)

            def send() -> None:
                client.sendall(payload)
                client.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            assert receive_all(inside) == payload
            sender.join()
            inside.sendall(payload[::-1][:1_000_000])
        assert receive_all(client) == payload[::-1][:1_000_000]


def test_refused_by_the_container(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    proxy = Proxy("tcp", port)
    try:
        with socket.create_connection(proxy.address, timeout=DEADLINE) as client:
            assert client.recv(10) == b""
    except ConnectionResetError:
        pass
    finally:
        proxy.close()


def test_client_that_vanishes_ends_the_connection(proxy: Proxy, server: socket.socket) -> None:
    client = socket.create_connection(proxy.address, timeout=DEADLINE)
    inside, _ = server.accept()
    with inside:
        inside.settimeout(DEADLINE)
        client.sendall(b"x")
        assert inside.recv(1) == b"x"
        client.close()
        assert inside.recv(1) == b""


def test_datagrams_find_their_way_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(DEADLINE)
        proxy = Proxy("udp", server.getsockname()[1])
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        try:
            for n, client in enumerate(clients):
                client.settimeout(DEADLINE)
                client.sendto(b"question %d" % n, proxy.address)
                data, address = server.recvfrom(100)
                server.sendto(data.replace(b"question", b"answer"), address)
            for n, client in enumerate(clients):
                assert client.recv(100) == b"answer %d" % n
        finally:
            proxy.close()
            for client in clients:
                client.close()
