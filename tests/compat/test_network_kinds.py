"""What of networks needs more of the kernel than most have: ipvlan, VLANs, SCTP; see tests.vm."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common import netlink, netns
from common.netlink import Netlink
from tests.compat.test_networks import SERVER, default_route, fetch, gets_page, network
from tests.engine import BUSYBOX
from tests.network_host import HOST, LabEngine, lab
from tests.probes import requires
from tests.root.network_lab import Machine

__all__ = ["network"]  # a fixture
Runner = Callable[..., str]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


def vlan(at: Machine, parent: str, tag: int, address: str) -> None:
    with netns.entered(at.namespace), Netlink() as links:
        link = links.link(parent)
        assert link is not None
        name = f"{parent}.{tag}"
        links.execute(netlink.vlan(name, parent=link.index, tag=tag))
        made = links.link(name)
        assert made is not None
        links.execute(
            netlink.add_address(made.index, address), netlink.set_up(made.index, made.name)
        )


def is_on_host(engine: LabEngine, name: str) -> bool:
    with netns.entered(engine.machine.namespace), Netlink() as links:
        return links.link(name) is not None


@requires("ipvlan")
def test_ipvlan_l2(engine: LabEngine, network: Runner, running: Runner) -> None:
    net = network(
        *("-d", "ipvlan", "-o", "parent=lan0", "--subnet", "198.51.100.0/24"),
        *("--gateway", HOST, "--ip-range", "198.51.100.64/26"),
    )
    one = running("--network", net, BUSYBOX, *SERVER)
    two = running("--network", net, BUSYBOX, "sleep", "100")
    assert fetch(engine.peer, engine.network(one, net)["IPAddress"], 80) == b"hello\n"
    assert gets_page(engine, two, one)
    assert f"via {HOST}" in default_route(engine, one)
    # All have the parent's address on the wire.
    assert engine.network(one, net)["MacAddress"] == ""
    addresses = {
        engine.docker("exec", each, "cat", "/sys/class/net/eth0/address").stdout
        for each in (one, two)
    }
    assert len(addresses) == 1
    option = ("--mac-address", "02:42:00:00:00:01")
    done = engine.docker("run", "--rm", "--network", net, *option, BUSYBOX, "true", check=False)
    assert "ipvlan interfaces do not support custom mac address assignment" in done.stderr


@requires("ipvlan")
@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_l3(engine: LabEngine, network: Runner, running: Runner, mode: str) -> None:
    net = network(
        *("-d", "ipvlan", "-o", "parent=lan0", "-o", f"ipvlan_mode={mode}"),
        *("--subnet", "10.82.0.0/24"),
    )
    one = running("--network", net, "--ip", "10.82.0.9", BUSYBOX, *SERVER)
    two = running("--network", net, BUSYBOX, "sleep", "100")
    # The peer's default route leads to the host, which has no address in that subnet.
    assert fetch(engine.peer, "10.82.0.9", 80) == b"hello\n"
    assert gets_page(engine, two, one)
    assert "default dev eth0" in default_route(engine, one)


@requires("vlan")
@pytest.mark.parametrize(("driver", "tag"), [("macvlan", 10), ("ipvlan", 20)])
def test_vlan_parent_is_made(
    engine: LabEngine, network: Runner, running: Runner, driver: str, tag: int
) -> None:
    vlan(engine.peer, "eth0", tag, f"10.{tag}.0.1/24")
    net = network("-d", driver, "-o", f"parent=lan0.{tag}", "--subnet", f"10.{tag}.0.0/24",
                  "--ip-range", f"10.{tag}.0.64/26")  # fmt: skip
    assert is_on_host(engine, f"lan0.{tag}")
    one = running("--network", net, BUSYBOX, *SERVER)
    assert fetch(engine.peer, engine.network(one, net)["IPAddress"], 80) == b"hello\n"
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", net)
    assert not is_on_host(engine, f"lan0.{tag}")
    engine.docker("network", "create", "-d", driver, "-o", f"parent=lan0.{tag}", net)


@requires("vlan")
@pytest.mark.parametrize(
    ("parent", "error"),
    [
        ("lan0.5000", "vlan id must be between 1-4094, received: 5000"),
        ("nope0.10", "parent interface nope0 was not found on the host"),
    ],
)
def test_impossible_vlans(engine: LabEngine, parent: str, error: str) -> None:
    done = engine.docker(
        "network", "create", "-d", "macvlan", "-o", f"parent={parent}", "t-impossible", check=False
    )
    assert error in done.stderr


def sctp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    made.settimeout(10)
    return made


@requires("sctp")
def test_sctp_port(engine: LabEngine, running: Runner) -> None:
    name = running("-p", "7000/sctp", BUSYBOX, "sleep", "100")
    found: Any = engine.inspect(name)["NetworkSettings"]
    port = int(found["Ports"]["7000/sctp"][0]["HostPort"])
    with engine.inside(name):
        server = sctp()
    with server, netns.entered(engine.peer.namespace):
        client = sctp()
        server.bind(("0.0.0.0", 7000))
        server.listen()
        with client:
            client.connect((HOST, port))
            connection, (address, _) = server.accept()
            with connection:
                client.sendall(os.fsencode("ping"))
                assert connection.recv(10) == b"ping"
                connection.sendall(b"pong")
                assert client.recv(10) == b"pong"
    assert address == "198.51.100.2"
