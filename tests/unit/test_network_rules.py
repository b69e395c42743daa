"""Requests for networks and endpoints, against the answers of Docker Engine 28.5."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import (
    Conflict,
    EngineError,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from lifecycle.network_records import EndpointRequest, IpamConfig, NetworkRecord, NetworkRequest
from lifecycle.network_rules import (
    bridge_options,
    check_endpoint,
    check_filters,
    check_network,
    endpoint_sysctls,
)

HEAD = "invalid network config:\n"
SUBNET = "10.99.1.0/24"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (IpamConfig("10.99.1.1/24"), "invalid subnet 10.99.1.1/24: it should be 10.99.1.0/24"),
        (IpamConfig("foo"), "invalid subnet foo: invalid CIDR block notation"),
        (IpamConfig(""), "invalid subnet : invalid CIDR block notation"),
        (IpamConfig("10.99.1.0/33"), "invalid subnet 10.99.1.0/33: invalid CIDR block notation"),
        (
            IpamConfig(SUBNET, auxiliary={"x": "10.98.0.1"}),
            "invalid auxiliary address x: parent subnet 10.99.1.0/24 doesn't contain this address",
        ),
        (
            IpamConfig(SUBNET, ip_range="10.98.0.0/25"),
            "invalid ip-range 10.98.0.0/25: parent subnet 10.99.1.0/24 doesn't contain ip-range",
        ),
        (
            IpamConfig(SUBNET, ip_range="10.99.0.0/16"),
            "invalid ip-range 10.99.0.0/16: CIDR block is bigger than its parent subnet "
            "10.99.1.0/24",
        ),
        (
            IpamConfig(SUBNET, ip_range="10.99.1.1/25"),
            "invalid ip-range 10.99.1.1/25: it should be 10.99.1.0/25",
        ),
        (
            IpamConfig(SUBNET, gateway="10.98.0.1"),
            "invalid gateway 10.98.0.1: parent subnet 10.99.1.0/24 doesn't contain this address",
        ),
        (
            IpamConfig(SUBNET, "foo", "bar", {"x": "zzz"}),
            "* invalid ip-range foo: invalid CIDR block notation\n"
            "* invalid gateway bar: invalid address\n"
            "* invalid auxiliary address x: invalid address",
        ),
    ],
)
def test_address_configuration(config: IpamConfig, text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_network(NetworkRequest("n", ipam=(config,)), ())
    assert str(refused.value) == HEAD + text


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"name": " "}, InvalidArgument, "invalid name: name is empty"),
        (
            {"name": "bridge"},
            PermissionDenied,
            "operation is not permitted on predefined bridge network ",
        ),
        ({"name": "web"}, Conflict, "network with name web already exists"),
        ({"driver": "foo"}, NotFound, 'plugin "foo" not found'),
        (
            {"driver": "host"},
            PermissionDenied,
            'only one instance of "host" network is allowed',
        ),
        ({"ipam_driver": "foo"}, NotFound, 'plugin "foo" not found'),
        ({"enable_ipv4": False}, InvalidArgument, "IPv4 or IPv6 must be enabled"),
        (
            {"ingress": True},
            PermissionDenied,
            "Ingress network can only be global scope network",
        ),
    ],
)
def test_requests(fields: dict[str, Any], kind: type[EngineError], text: str) -> None:
    with pytest.raises(kind) as refused:
        check_network(NetworkRequest(**{"name": "n", **fields}), ["web"])
    assert str(refused.value) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "com.docker.network.bridge.enable_icc",
            "maybe",
            "failed to parse com.docker.network.bridge.enable_icc value: maybe "
            '(strconv.ParseBool: parsing "maybe": invalid syntax)',
        ),
        (
            "com.docker.network.driver.mtu",
            "abc",
            "failed to parse com.docker.network.driver.mtu value: abc "
            '(strconv.Atoi: parsing "abc": invalid syntax)',
        ),
        ("com.docker.network.driver.mtu", "-5", "invalid MTU number: -5"),
        (
            "com.docker.network.bridge.host_binding_ipv4",
            "foo",
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: foo (nil ip)",
        ),
    ],
)
def test_driver_options(key: str, value: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        bridge_options({key: value}, 1500)
    assert str(refused.value) == text


@pytest.mark.parametrize("name", ['br0"', "a b", "averyverylongbridgename", "a/b", "a}\nflush"])
def test_bridge_names_cannot_become_commands(name: str) -> None:
    with pytest.raises(InvalidArgument):
        bridge_options({"com.docker.network.bridge.name": name}, 1500)


def test_endpoint_requests() -> None:
    plain = NetworkRecord("i", "nt-a", 0, "bridge", subnet="172.18.0.0/16")
    bridge = NetworkRecord("i", "bridge", 0, "bridge", predefined=True)
    subnet = NetworkRecord("i", "nt-c", 0, "bridge", ipam=(IpamConfig(SUBNET),), subnet=SUBNET)
    check_endpoint(subnet, EndpointRequest(("al",), "10.99.1.9", "02:42:ac:11:00:99"))
    head = "invalid endpoint settings:\n"
    for network, request, text in (
        (
            bridge,
            EndpointRequest(("foo",)),
            f"{head}network-scoped alias is supported only for containers in user defined networks",
        ),
        (
            subnet,
            EndpointRequest(ipv4="10.99.2.3"),
            f"{head}no configured subnet or ip-range contain the IP address 10.99.2.3",
        ),
        (
            plain,
            EndpointRequest(ipv4="foo"),
            f"{head}* invalid IPv4 address: foo\n* user specified IP address is supported only "
            "when connecting to networks with user configured subnets",
        ),
        (plain, EndpointRequest(mac="foo"), "invalid MAC address foo"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            check_endpoint(network, request)
        assert str(refused.value) == text


def test_endpoint_sysctls() -> None:
    key = "com.docker.network.endpoint.sysctls"
    value = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2"
    assert endpoint_sysctls({key: value}) == {
        "net.ipv4.conf.IFNAME.log_martians": "1",
        "net.ipv6.conf.IFNAME.accept_ra": "2",
    }
    for bad in ("kernel.core_pattern=x", "net.ipv4.ip_forward=1", "net.ipv4.conf.IFNAME..=1"):
        with pytest.raises(InvalidArgument):
            endpoint_sysctls({key: bad})


def test_filters() -> None:
    check_filters({"dangling": ["True"], "type": ["builtin", "custom"]})
    for values in (["xx"], ["true", "false"], []):
        with pytest.raises(InvalidArgument, match="invalid value for filter 'dangling'"):
            check_filters({"dangling": values})
    with pytest.raises(InternalError, match="invalid filter: 'type'='xx'"):
        check_filters({"type": ["xx"]})
