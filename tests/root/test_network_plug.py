"""Plugging a namespace: what the shim's hand-made netlink messages do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common import endpoint, netlink, netns
from common.endpoint import Endpoint, Route
from common.netlink import Netlink
from networking import bridge
from networking.bridge import Bridge
from tests.root.network_lab import Machine, machine, own_host, wait_for

ENDPOINT = Endpoint(
    bridge="brp",
    host_ifname="ve00000000001",
    ifname="eth0",
    mac="02:42:ac:11:00:02",
    mtu=1400,
    addresses=("172.17.0.2/16",),
    gateway="172.17.0.1",
    routes=(Route("10.5.0.0/16"), Route("10.6.0.0/16", "172.17.0.9")),
    sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"},
)


@pytest.fixture
def container() -> Iterator[Machine]:
    with own_host(), machine() as made:
        with Netlink() as host:
            bridge.ensure(host, Bridge("brp", "longshore:test:p", ("172.17.0.1/16",)))
        yield made


def _sysctl(container: Machine, key: str) -> str:
    with netns.entered(container.namespace), open(f"/proc/sys/{key}") as file:
        return file.read().strip()


def test_everything_that_an_endpoint_says(container: Machine) -> None:
    endpoint.plug_all(container.pid, [ENDPOINT])
    with netns.entered(container.namespace), Netlink() as inside:
        lo, link = inside.link("lo"), inside.link("eth0")
        assert lo is not None
        assert lo.up
        assert link is not None
        assert (link.up, link.mtu, link.mac) == (True, 1400, ENDPOINT.mac)
        assert inside.addresses(link.index) == ["172.17.0.2/16"]
        routes = {destination for destination, _ in inside.routes()}
        assert routes == {"172.17.0.0/16", "10.5.0.0/16", "10.6.0.0/16"}
    assert _sysctl(container, "net/ipv6/conf/eth0/disable_ipv6") == "1"
    assert _sysctl(container, "net/ipv6/conf/lo/disable_ipv6") == "0"
    assert _sysctl(container, "net/ipv4/conf/eth0/log_martians") == "1"
    with Netlink() as host:
        outer, master = host.link(ENDPOINT.host_ifname), host.link("brp")
        assert outer is not None
        assert master is not None
        assert outer.up
        assert outer.master == master.index
    (counted,) = endpoint.counters(container.pid)
    assert counted.name == "eth0"
    assert Endpoint.from_json(ENDPOINT.to_json()) == ENDPOINT


def test_no_endpoints_is_loopback_only(container: Machine) -> None:
    endpoint.plug_all(container.pid, [])
    with netns.entered(container.namespace), Netlink() as inside:
        assert [link.name for link in inside.links() if link.up] == ["lo"]


def test_dual_stack(container: Machine) -> None:
    both = replace(ENDPOINT, addresses=("172.17.0.2/16", "fd00:1::2/64"), gateway6="fd00:1::1")
    endpoint.plug_all(container.pid, [both])
    with netns.entered(container.namespace), Netlink() as inside:
        assert "fd00:1::2/64" in inside.addresses()
    assert _sysctl(container, "net/ipv6/conf/eth0/accept_ra") == "0"
    assert _sysctl(container, "net/ipv6/conf/eth0/disable_ipv6") == "0"


def test_unplug_and_the_end_of_a_namespace(container: Machine) -> None:
    endpoint.plug_all(container.pid, [ENDPOINT])
    second = replace(ENDPOINT, host_ifname="ve00000000002", ifname="eth1", gateway=None, routes=())
    endpoint.plug(container.pid, second)
    endpoint.unplug_veth(second.host_ifname)
    endpoint.unplug_veth(second.host_ifname)  # gone already
    with netns.entered(container.namespace), Netlink() as inside:
        assert inside.link("eth1") is None
    with machine() as other, Netlink() as host:
        endpoint.plug_all(other.pid, [replace(ENDPOINT, host_ifname="ve00000000003")])
        assert host.link("ve00000000003") is not None
    with Netlink() as host:
        wait_for(lambda: host.link("ve00000000003") is None)


def test_failures_name_what_failed(container: Machine) -> None:
    with pytest.raises(OSError, match="interface nope: No such device"):
        endpoint.plug_all(container.pid, [replace(ENDPOINT, bridge="nope")])
    endpoint.plug_all(container.pid, [ENDPOINT])
    with pytest.raises(OSError, match="RTM_NEWLINK ve00000000001: File exists"):
        endpoint.plug(container.pid, ENDPOINT)
    here = os.stat("/proc/thread-self/ns/net").st_ino
    assert here != os.stat(f"/proc/{container.pid}/ns/net").st_ino


@pytest.mark.parametrize("name", ["", "x" * 16, "x" * 70_000, "a/b", "a\0b"])
def test_interface_names_cannot_smuggle_attributes(name: str) -> None:
    with pytest.raises(ValueError, match="not an interface name"):
        netlink.veth(name=name, peer="e", peer_namespace=0, peer_mac="0" * 12, mtu=1, master=1)


def test_attributes_longer_than_their_length_field() -> None:
    with pytest.raises(Exception, match="ushort format requires"):
        netlink.attribute(netlink.IFLA_IFALIAS, b"x" * 65_532)


@pytest.mark.parametrize("key", ["kernel/core_pattern", "net/../kernel/core_pattern"])
def test_only_network_sysctls_are_written(key: str) -> None:
    with pytest.raises(ValueError, match="not below net/"):
        netns.write_sysctls({key: "x"})
    with pytest.raises(ValueError, match="control characters"):
        netns.write_sysctls({"net/ipv4/ip_forward": "1\n2"})
