"""Published ports of each protocol, from everywhere that a client can be, with real traffic.

Servers and clients are sockets of this process that live in the namespaces of containers, of the
host and of a neighbour on its LAN, so that what arrives can be looked at.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from common import netns
from tests.engine import BUSYBOX
from tests.network_host import HOST, HOST6, PEER, PEER6, LabEngine, lab
from tests.probes import requires

Runner = Callable[..., str]
PROTOCOLS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
NUMBER = 9000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def net(engine: LabEngine) -> Iterator[str]:
    with engine.made_network("--ipv6") as name:
        yield name


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def echo(engine: LabEngine, container: str, proto: str) -> Iterator[None]:
    """A server in a container, on IPv4 and IPv6: answers whom it takes its client for."""
    kind, number = PROTOCOLS[proto]
    with engine.inside(container):
        server = socket.socket(socket.AF_INET6, kind, number)
    server.settimeout(0.1)
    server.bind(("::", NUMBER))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                if proto == "udp":
                    _, client = server.recvfrom(100)
                    server.sendto(client[0].encode(), client)
                    continue
                connection, client = server.accept()
                with connection:
                    connection.settimeout(20)
                    connection.recv(100)
                    connection.sendall(client[0].encode())
            except TimeoutError:
                continue

    if proto != "udp":
        server.listen()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        server.close()


def ask(namespace: int, proto: str, address: str, port: int) -> str:
    """Whom the server takes a client in ``namespace`` for; "" if it does not answer."""
    kind, number = PROTOCOLS[proto]
    with netns.entered(namespace):
        client = socket.socket(family_of(address), kind, number)
    with client:
        client.settimeout(20)  # what does not answer refuses
        try:
            # Connected, so that a datagram from another address than the one asked does not count.
            client.connect((address, port))
            client.send(b"who am I")
            return client.recv(100).decode().removeprefix("::ffff:")
        except OSError:
            return ""


@contextmanager
def namespace(engine: LabEngine, container: str) -> Iterator[int]:
    descriptor = netns.open_of(engine.inspect(container)["State"]["Pid"])
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def published(engine: LabEngine, container: str, proto: str) -> int:
    bound = engine.inspect(container)["NetworkSettings"]["Ports"][f"{NUMBER}/{proto}"]
    return int(bound[0]["HostPort"])


@pytest.mark.parametrize("proto", ["tcp", "udp", pytest.param("sctp", marks=requires("sctp"))])
def test_reached_from_everywhere(engine: LabEngine, net: str, running: Runner, proto: str) -> None:
    server = running("--network", net, "-p", f"{NUMBER}/{proto}", BUSYBOX, "sleep", "100")
    mate = running("--network", net, BUSYBOX, "sleep", "100")
    stranger = running(BUSYBOX, "sleep", "100")
    port = published(engine, server, proto)
    host, peer = engine.machine.namespace, engine.peer.namespace
    with (
        echo(engine, server, proto),
        namespace(engine, server) as itself,
        namespace(engine, mate) as near,
        namespace(engine, stranger) as far,
    ):
        assert ask(peer, proto, HOST, port) == PEER
        assert ask(peer, proto, HOST6, port) == PEER6
        # Nothing that comes from ::1 leaves its link, and the relay does not know SCTP.
        relayed = ("::1",) if proto != "sctp" else ()
        for address in (HOST, HOST6, "127.0.0.1", "127.9.9.9", *relayed):
            assert ask(host, proto, address, port), address
        for address in (HOST, HOST6):
            assert ask(near, proto, address, port), address
            assert ask(itself, proto, address, port), address
        assert ask(far, proto, HOST, port)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_ipv6_of_the_host_to_a_container_without(
    engine: LabEngine, running: Runner, proto: str
) -> None:
    server = running("-p", f"{NUMBER}/{proto}", BUSYBOX, "sleep", "100")
    port = published(engine, server, proto)
    with echo(engine, server, proto):
        for at, address in (
            (engine.peer, HOST6),
            (engine.machine, HOST6),
            (engine.machine, "::1"),
        ):
            assert ask(at.namespace, proto, address, port), address


@pytest.mark.parametrize("address", [HOST, HOST6, "127.0.0.1", "::1"])
def test_bound_to_one_address(engine: LabEngine, net: str, running: Runner, address: str) -> None:
    host_ip = f"[{address}]" if ":" in address else address
    server = running("--network", net, "-p", f"{host_ip}::{NUMBER}", BUSYBOX, "sleep", "100")
    port = published(engine, server, "tcp")
    with echo(engine, server, "tcp"):
        for other in (HOST, HOST6, "127.0.0.1", "::1"):
            answer = ask(engine.machine.namespace, "tcp", other, port)
            assert bool(answer) == (other == address), other
        outside = bool(ask(engine.peer.namespace, "tcp", address, port))
        assert outside == (address in (HOST, HOST6))


def test_ranges(engine: LabEngine, net: str, running: Runner) -> None:
    """Each of a range leads to its own port; a range for one port gives the first that is free."""
    arguments = ("--network", net, BUSYBOX, "sleep", "100")
    pairs = running("-p", f"21998-22002:{NUMBER - 2}-{NUMBER + 2}", *arguments)
    with echo(engine, pairs, "tcp"):
        found = [bool(ask(engine.peer.namespace, "tcp", HOST, 21998 + n)) for n in range(5)]
    assert found == [False, False, True, False, False]
    first, second = (running("-p", f"22002-22004:{NUMBER}", *arguments) for _ in range(2))
    assert (published(engine, first, "tcp"), published(engine, second, "tcp")) == (22003, 22004)
    done = engine.docker("run", "--rm", "-p", f"22002-22004:{NUMBER}", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "all ports are allocated" in done.stderr


def test_all_exposed_ports(engine: LabEngine, net: str, running: Runner) -> None:
    exposed = ("--expose", f"{NUMBER}/tcp", "--expose", f"{NUMBER}/udp")
    server = running("-P", *exposed, "--network", net, BUSYBOX, "sleep", "100")
    for proto in ("tcp", "udp"):
        with echo(engine, server, proto):
            assert ask(engine.peer.namespace, proto, HOST, published(engine, server, proto)) == PEER


def test_taken_port_is_refused_and_nothing_is_kept(
    engine: LabEngine, net: str, running: Runner, name: str
) -> None:
    running("--network", net, "-p", f"22010:{NUMBER}", BUSYBOX, "sleep", "100")
    ports = ("-p", f"22011:{NUMBER}", "-p", f"22010:{NUMBER}")
    done = engine.docker("run", "--name", name, *ports, BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "Bind for 0.0.0.0:22010 failed: port is already allocated" in done.stderr
    with netns.entered(engine.machine.namespace), socket.socket() as probe:
        probe.bind(("0.0.0.0", 22011))
    with netns.entered(engine.machine.namespace), socket.socket() as other:
        other.bind(("0.0.0.0", 22012))
        other.listen()
        done = engine.docker("run", "--rm", "-p", "22012:80", BUSYBOX, "true", check=False)
    assert "address already in use" in done.stderr
