"""The firewall's table against real traffic between namespaces."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.endpoint import Endpoint, plug_all
from common.netlink import Netlink
from networking import bridge, conntrack
from networking.bridge import Bridge
from networking.firewall import Firewall, NetworkRules, PublishedPort
from networking.foreign import foreign_policy_warnings
from networking.nftables import Nftables
from networking.watch import TableWatch
from tests.root.network_lab import (
    Machine,
    cable,
    connect,
    is_kept_from,
    listen,
    machine,
    own_host,
    reaches,
)

WEB, LAN_HOST, LAN_PEER = "172.30.0.2", "198.51.100.1", "198.51.100.2"


class Lab:
    """A host with two networks, a container in each, and a neighbour on its LAN."""

    def __init__(self, stack: ExitStack) -> None:
        self.host = stack.enter_context(own_host())
        self.nft = Nftables()
        stack.callback(self.nft.close)
        self.firewall = Firewall(self.nft, "longshore_test")
        self.firewall.reapply()
        bridge.enable_forwarding()
        self.stack = stack
        self.add_network("n1", "brt1", "172.30.0")
        self.add_network("n2", "brt2", "172.31.0")
        self.web = self.add_container("brt1", "172.30.0", 2)
        self.friend = self.add_container("brt1", "172.30.0", 3)
        self.stranger = self.add_container("brt2", "172.31.0", 2)
        self.peer = stack.enter_context(machine())
        cable(
            self.peer,
            name="lan0",
            host_address=f"{LAN_HOST}/24",
            address=f"{LAN_PEER}/24",
            gateway=LAN_HOST,
        )
        self.service = stack.enter_context(self.web.listen("0.0.0.0", 80))

    def add_network(
        self, network_id: str, name: str, net: str, *, icc: bool = True, internal: bool = False
    ) -> None:
        with Netlink() as links:
            bridge.ensure(links, Bridge(name, f"longshore:test:{network_id}", (f"{net}.1/16",)))
        self.firewall.add_network(
            NetworkRules(network_id, name, (f"{net}.0/16",), icc=icc, internal=internal)
        )

    def add_container(self, name: str, net: str, number: int, *, isolated: bool = False) -> Machine:
        made = self.stack.enter_context(machine())
        endpoint = Endpoint(
            bridge=name,
            host_ifname=f"ve{made.pid}",
            ifname="eth0",
            mac=f"02:42:ac:00:{number:02x}:{len(net):02x}",
            mtu=1500,
            addresses=(f"{net}.{number}/16",),
            gateway=f"{net}.1",
            isolated=isolated,
            hairpin=bridge.needs_hairpin(),
        )
        plug_all(made.pid, [endpoint])
        return made

    def publish(self, host_ip: str = "0.0.0.0", port: int = 8080, proto: str = "tcp") -> None:
        self.firewall.add_ports("c" * 64, [PublishedPort(proto, host_ip, port, WEB, 80)])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack)


def test_published_port_from_everywhere(lab: Lab) -> None:
    assert is_kept_from(LAN_HOST, 8080)
    lab.publish()
    assert reaches("127.0.0.1", 8080)
    assert reaches(LAN_HOST, 8080)
    assert reaches("172.30.0.1", 8080)
    assert lab.peer.reaches(LAN_HOST, 8080)
    assert lab.friend.reaches(LAN_HOST, 8080)
    assert lab.stranger.reaches(LAN_HOST, 8080)
    assert lab.web.reaches(LAN_HOST, 8080)  # itself, by way of the host
    lab.firewall.remove_ports("c" * 64)
    assert lab.peer.is_kept_from(LAN_HOST, 8080)
    assert is_kept_from("127.0.0.1", 8080)


def test_source_address_is_kept(lab: Lab) -> None:
    lab.publish()
    client = lab.peer.connect(LAN_HOST, 8080)
    served, source = lab.service.accept()
    assert source[0] == LAN_PEER
    served.close()
    client.close()


def test_specific_host_address(lab: Lab) -> None:
    lab.publish("127.0.0.1")
    assert reaches("127.0.0.1", 8080)
    assert is_kept_from(LAN_HOST, 8080)
    assert lab.peer.is_kept_from(LAN_HOST, 8080)
    # A neighbour that routes 127.0.0.1 to this host must not get there either.
    subprocess.run(
        f"nsenter -t {lab.peer.pid} -n sh -c '"
        "echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr del 127.0.0.1/8 dev lo;"
        f"ip route del local 127.0.0.0/8 table local; ip route add 127.0.0.0/8 via {LAN_HOST}'",
        shell=True,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    assert lab.peer.is_kept_from("127.0.0.1", 8080)


def test_isolation(lab: Lab) -> None:
    assert lab.friend.reaches(WEB, 80)
    assert reaches(WEB, 80)  # the host itself
    assert lab.stranger.is_kept_from(WEB, 80)
    assert lab.peer.is_kept_from(WEB, 80)
    lab.publish()
    assert lab.peer.is_kept_from(WEB, 80)  # published is the host's port, not the address


def test_masquerade(lab: Lab) -> None:
    with lab.peer.listen("0.0.0.0", 90) as outside:
        client = lab.web.connect(LAN_PEER, 90)
        served, source = outside.accept()
        assert source[0] == LAN_HOST
        served.close()
        client.close()


def test_internal_network(lab: Lab) -> None:
    lab.add_network("n3", "brt3", "172.29.0", internal=True)
    one = lab.add_container("brt3", "172.29.0", 2)
    other = lab.add_container("brt3", "172.29.0", 3)
    lab.publish()
    with lab.peer.listen("0.0.0.0", 90), one.listen("0.0.0.0", 80):
        assert other.reaches("172.29.0.2", 80)
        assert one.is_kept_from(LAN_PEER, 90)
        assert one.is_kept_from(LAN_HOST, 8080)
        assert lab.friend.is_kept_from("172.29.0.2", 80)


def test_no_traffic_between_containers(lab: Lab) -> None:
    lab.add_network("n3", "brt3", "172.29.0", icc=False)
    one = lab.add_container("brt3", "172.29.0", 2, isolated=True)
    other = lab.add_container("brt3", "172.29.0", 3, isolated=True)
    with one.listen("0.0.0.0", 80), lab.peer.listen("0.0.0.0", 90):
        assert reaches("172.29.0.2", 80)
        assert other.reaches(LAN_PEER, 90)
        assert other.is_kept_from("172.29.0.2", 80)


def test_container_cannot_reach_the_hosts_loopback(lab: Lab) -> None:
    with listen("127.0.0.1", 91):
        subprocess.run(
            f"nsenter -t {lab.web.pid} -n sh -c 'ip addr del 127.0.0.1/8 dev lo;"
            "echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet;"
            "ip route add 127.0.0.0/8 via 172.30.0.1'",
            shell=True,
            check=False,
            stderr=subprocess.DEVNULL,
        )
        assert lab.web.is_kept_from("127.0.0.1", 91)


def test_flush_is_noticed_and_repaired(lab: Lab) -> None:
    watch = TableWatch("longshore_test")
    lab.publish()
    lab.firewall.remove_ports("c" * 64)
    lab.publish()
    lab.firewall.reapply()
    assert not watch.table_damaged(), "our own changes are no damage"
    subprocess.run(["nft", "add", "table", "inet", "other"], check=True)
    subprocess.run(["nft", "delete", "table", "inet", "other"], check=True)
    assert not watch.table_damaged()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert watch.table_damaged()
    assert lab.peer.is_kept_from(LAN_HOST, 8080)
    lab.firewall.reapply()
    assert not watch.table_damaged()
    assert lab.peer.reaches(LAN_HOST, 8080)
    subprocess.run(["nft", "flush", "chain", "inet", "longshore_test", "forward"], check=True)
    assert watch.table_damaged()
    watch.close()


def test_a_change_repairs_what_was_flushed(lab: Lab) -> None:
    lab.publish()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    lab.firewall.remove_ports("c" * 64)
    assert lab.friend.reaches(WEB, 80)
    assert lab.stranger.is_kept_from(WEB, 80)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    lab.publish()
    assert lab.peer.reaches(LAN_HOST, 8080)


def test_administrators_chain_is_kept(lab: Lab) -> None:
    lab.publish()
    lab.nft.run(f"add rule inet longshore_test admin ip saddr {LAN_PEER} drop")
    assert lab.peer.is_kept_from(LAN_HOST, 8080)
    lab.firewall.reapply()
    assert "drop" in lab.nft.run("list chain inet longshore_test admin")
    assert lab.peer.is_kept_from(LAN_HOST, 8080)


def test_sync_removes_what_no_record_knows(lab: Lab) -> None:
    lab.publish()
    lab.firewall.sync([NetworkRules("n1", "brt1", ("172.30.0.0/16",))], {})
    listing = lab.nft.run("list table inet longshore_test")
    assert "brt2" not in listing
    assert "8080" not in listing
    lab.firewall.remove_network("n1")
    assert "brt1" not in lab.nft.run("list table inet longshore_test")


def test_forwarding_for_others_stays_off(lab: Lab) -> None:
    closed = Firewall(lab.nft, "longshore_test", forwards_for_others=False)
    closed.sync([NetworkRules("n1", "brt1", ("172.30.0.0/16",))], {})
    with machine() as second, lab.peer.listen("0.0.0.0", 90):
        cable(
            second,
            name="lan1",
            host_address="203.0.113.1/24",
            address="203.0.113.2/24",
            gateway="203.0.113.1",
        )
        assert second.is_kept_from(LAN_PEER, 90)
        assert lab.web.reaches(LAN_PEER, 90)
        lab.firewall.reapply()
        assert second.reaches(LAN_PEER, 90)


def test_foreign_policy(lab: Lab) -> None:
    assert foreign_policy_warnings(lab.nft, "longshore_test") == []
    lab.nft.run(
        "add table ip filter; add chain ip filter FORWARD "
        "{ type filter hook forward priority 0; policy drop; }"
    )
    (warning,) = foreign_policy_warnings(lab.nft, "longshore_test")
    assert "ip filter FORWARD" in warning


def test_udp_connections_are_forgotten(lab: Lab) -> None:
    lab.publish(proto="udp")
    with lab.web.listen("0.0.0.0", 80, udp=True) as service:
        client = lab.peer.listen("0.0.0.0", 91, udp=True)
        client.sendto(b"one", (LAN_HOST, 8080))
        assert service.recv(9) == b"one"
        lab.firewall.remove_ports("c" * 64)
        lab.firewall.add_ports("d" * 64, [PublishedPort("udp", "0.0.0.0", 8080, "172.30.0.3", 80)])
        conntrack.forget_udp(WEB)
        with lab.friend.listen("0.0.0.0", 80, udp=True) as replaced:
            client.sendto(b"two", (LAN_HOST, 8080))
            assert replaced.recv(9) == b"two"
        client.close()


def test_leftover_bridges_and_veths(lab: Lab) -> None:
    del lab
    root = Path("/run/longshore-leftover-test")
    with Netlink() as links:
        for name in ("brk", "brl"):
            bridge.ensure(links, Bridge(name, bridge.owner_of(root, name), ("172.28.0.1/24",)))
        bridge.ensure(links, Bridge("brforeign", "other", ()))
        for name, master in (("ve0000000000a", "brk"), ("ve0000000000b", "brforeign")):
            command = ["ip", "link", "add", name, "master", master, "type", "veth"]
            subprocess.run(command, check=True)
        removed = bridge.remove_leftovers(links, root, [bridge.owner_of(root, "brk")], [])
        assert sorted(removed) == ["brl", "ve0000000000a"]
        assert links.link("brforeign") is not None


def test_connection_helper_has_no_side_effect(lab: Lab) -> None:
    """The thread is back in the lab's namespace after each visit to another one."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    assert lab.friend.reaches(WEB, 80)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    with connect(WEB, 80):
        pass
