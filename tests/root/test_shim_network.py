"""Containers that the shim plugs into a bridge, and the published ports that it relays."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from common import netlink
from common.netlink import Netlink
from shim.protocol import Message, ShimError
from tests.polling import until
from tests.root.shim_lab import Lab, alive, receive_all

BRIDGE = "lsshimtest0"
GATEWAY = "10.213.77.1"
ADDRESS = "10.213.77.2"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("shim-net"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def network() -> Iterator[Message]:
    with Netlink() as host:
        host.execute(netlink.bridge(BRIDGE, mac="02:42:0a:d5:4d:01", mtu=1500))
        link = host.link(BRIDGE)
        assert link is not None
        host.execute(
            netlink.add_address(link.index, f"{GATEWAY}/24"), netlink.set_up(link.index, BRIDGE)
        )
        yield {
            "endpoints": [
                {
                    "bridge": BRIDGE,
                    "host_ifname": "veshimtest1",
                    "ifname": "eth0",
                    "mac": "02:42:0a:d5:4d:02",
                    "mtu": 1500,
                    "addresses": [f"{ADDRESS}/24"],
                    "gateway": GATEWAY,
                    "routes": [],
                    "sysctls": {},
                }
            ]
        }
        host.execute(netlink.delete_link(link.index, BRIDGE))


def test_published_port_through_the_relay(lab: Lab, network: Message) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    port = {"proto": "tcp", "container_ip": ADDRESS, "container_port": 8080}
    shim = lab.shim()
    shim.subscribe()
    script = "echo ready; while :; do nc -l -p 8080 -e sh -c 'echo you said $(head -n 1)'; done"
    with listener:
        shim.start("sh", "-c", script, network=network, ports=[port], fds=[listener.fileno()])

    def ask() -> bytes:
        with socket.create_connection(address, timeout=5) as client:
            try:
                client.sendall(b"hello\n")
                client.shutdown(socket.SHUT_WR)
                return client.recv(100)
            except OSError:
                return b""  # nc does not listen yet

    assert until(ask, "an answer of the container", timeout=30) == b"you said hello\n"
    counters = shim.call("stats")["interfaces"]
    assert [each["name"] for each in counters] == ["eth0"]
    assert counters[0]["rx_packets"] > 0
    shim.call("signal", signal=9, all=False)
    assert shim.exit_code() == 137
    shim.gone()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    with Netlink() as host:
        until(lambda: host.link("veshimtest1") is None, "the end of the veth")


def test_bridge_that_is_missing_fails_the_start(lab: Lab, network: Message) -> None:
    endpoint = {**network["endpoints"][0], "bridge": "lsnosuch0"}
    shim = lab.shim()
    client = shim.attach()
    with pytest.raises(ShimError, match="lsnosuch0") as caught:
        shim.start("true", network={"endpoints": [endpoint]})
    assert (caught.value.code, caught.value.step) == ("internal", "network")
    assert receive_all(client) == b""
    shim.gone()
    assert not alive(shim.pid)
    assert not (lab.exec_root / "runtime" / shim.id).exists()
