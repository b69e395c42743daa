"""Requests for published ports: parsing, and the order of binding."""

from __future__ import annotations

import socket

import pytest

from common.errors import InvalidArgument
from networking.ports import (
    PortAllocated,
    PortAllocator,
    PortBinding,
    parse_binding,
    parse_container_port,
    parse_host_ports,
)

LOCAL = "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80/tcp", (80, "tcp")), ("80", (80, "tcp")), ("53/UDP", (53, "udp"))],
)
def test_container_port(text: str, expected: tuple[int, str]) -> None:
    assert parse_container_port(text) == expected


@pytest.mark.parametrize(
    "text", ["", "foo", "0/tcp", "65536/tcp", "80/foo", "80/", "-1/tcp", "٣/tcp"]
)
def test_bad_container_port(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_container_port(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), ("0", None), ("80", (80, 80)), ("80-90", (80, 90))]
)
def test_host_ports(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_host_ports(text) == expected


@pytest.mark.parametrize("text", ["x", "9-8", "99999", "0-5", "1-", "-1", "1-2-3", " 80"])
def test_bad_host_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f'invalid port specification: "{text}"'):
        parse_host_ports(text)


def test_binding() -> None:
    assert parse_binding("80/tcp", "[::1]", "8080") == PortBinding("tcp", 80, "::1", (8080, 8080))
    with pytest.raises(InvalidArgument):
        parse_binding("80/tcp", "foo", "8080")


def test_certain_ports_are_bound_before_free_ones() -> None:
    allocator = PortAllocator()
    with socket.create_server((LOCAL, 0)) as probe:
        port = probe.getsockname()[1]
    allocator._ephemeral = port  # where the search for a free one would begin
    bindings = [PortBinding("tcp", 81, LOCAL), PortBinding("tcp", 80, LOCAL, (port, port))]
    free, certain = allocator.bind(bindings, "172.17.0.2")
    try:
        assert (certain.container_port, certain.host_port) == (80, port)
        assert free.container_port == 81
        assert free.host_port != port
        with pytest.raises(PortAllocated, match=f"Bind for {LOCAL}:{port} failed: port is already"):
            allocator.bind([PortBinding("tcp", 80, LOCAL, (port, port))], "172.17.0.3")
    finally:
        allocator.close([free, certain])


def test_ranges_and_all_or_nothing() -> None:
    allocator = PortAllocator()
    with socket.create_server((LOCAL, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortAllocated, match=f"{LOCAL}:{port}:172.17.0.2:80/tcp: address alrea"):
            allocator.bind(
                [PortBinding("udp", 80, LOCAL), PortBinding("tcp", 80, LOCAL, (port, port))],
                "172.17.0.2",
            )
        assert allocator._held == {}
    first = allocator.bind([PortBinding("udp", 80, LOCAL, (port, port + 1))], "172.17.0.2")
    second = allocator.bind([PortBinding("udp", 80, LOCAL, (port, port + 1))], "172.17.0.2")
    try:
        assert (first[0].host_port, second[0].host_port) == (port, port + 1)
        with pytest.raises(PortAllocated, match="all ports are allocated"):
            allocator.bind([PortBinding("udp", 80, LOCAL, (port, port + 1))], "172.17.0.2")
    finally:
        allocator.close([*first, *second])


def test_same_free_port_for_both_families() -> None:
    allocator = PortAllocator()
    bound = allocator.bind([PortBinding("tcp", 80)], "172.17.0.2")
    try:
        assert {one.host_ip for one in bound} <= {"0.0.0.0", "::"}
        assert len({one.host_port for one in bound}) == 1
    finally:
        allocator.close(bound)


def test_address_of_another_machine() -> None:
    with pytest.raises(
        PortAllocated, match=r"192.0.2.77:18090:172.17.0.2:80/tcp: cannot assign req"
    ):
        PortAllocator().bind([PortBinding("tcp", 80, "192.0.2.77", (18090, 18090))], "172.17.0.2")
