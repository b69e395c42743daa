"""Address pools: what is given, in which order, and what is refused."""

from __future__ import annotations

import pytest

from common.errors import InternalError, InvalidArgument, NotFound, PermissionDenied
from common.options import AddressPool
from networking.ipam import AddressSpace, Pool, mac_of


def test_lowest_free_address_is_given() -> None:
    pool = Pool("10.0.0.0/29")
    assert [pool.allocate() for _ in range(6)] == [f"10.0.0.{last}" for last in range(1, 7)]
    with pytest.raises(InternalError):
        pool.allocate()
    pool.release("10.0.0.5")
    pool.release("10.0.0.2")
    assert [pool.allocate(), pool.allocate()] == ["10.0.0.2", "10.0.0.5"]


def test_reserved_addresses_are_not_given() -> None:
    pool = Pool("10.0.0.0/24")
    pool.reserve("10.0.0.1")
    pool.reserve("10.0.0.3")
    assert [pool.allocate(), pool.allocate()] == ["10.0.0.2", "10.0.0.4"]
    for taken in ("10.0.0.0", "10.0.0.3", "10.0.0.4", "10.0.0.255"):
        with pytest.raises(PermissionDenied, match="Address already in use"):
            pool.reserve(taken)
    with pytest.raises(InvalidArgument):
        pool.reserve("10.0.1.1")


def test_range_limits_what_is_given_but_not_what_is_asked_for() -> None:
    pool = Pool("10.99.0.0/24", "10.99.0.128/25")
    assert pool.allocate() == "10.99.0.128"  # as Docker: its gateway, unless one was given
    pool.reserve("10.99.0.5")
    pool.release("10.99.0.5")
    assert pool.allocate() == "10.99.0.129"


@pytest.mark.parametrize(("subnet", "count"), [("10.0.0.0/31", 2), ("10.0.0.0/32", 1)])
def test_tiny_subnets(subnet: str, count: int) -> None:
    pool = Pool(subnet)
    assert len({pool.allocate() for _ in range(count)}) == count
    with pytest.raises(InternalError):
        pool.allocate()


def test_default_pools_are_dockers() -> None:
    space = AddressSpace()
    given = [space.take_default() for _ in range(31)]
    assert given[:4] == ["172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16", "172.20.0.0/16"]
    assert given[14:17] == ["172.31.0.0/16", "192.168.0.0/20", "192.168.16.0/20"]
    assert given[-1] == "192.168.240.0/20"
    with pytest.raises(NotFound, match="all predefined address pools have been fully subnetted"):
        space.take_default()
    space.give_back("172.20.0.0/16")
    assert space.take_default() == "172.20.0.0/16"


def test_overlaps() -> None:
    space = AddressSpace()
    assert space.take_default(["172.17.3.4/24", "172.18.0.0/12", "fd00::/8"]) == "192.168.0.0/20"
    space.take("10.1.0.0/16")
    for overlapping in ("10.1.2.0/24", "10.0.0.0/8", "192.168.1.0/24"):
        with pytest.raises(PermissionDenied, match="invalid pool request: Pool overlaps with oth"):
            space.take(overlapping)
    space.take("10.2.0.0/16")


def test_administrators_pools() -> None:
    space = AddressSpace([AddressPool("10.10.0.0/23", 24)])
    assert [space.take_default(), space.take_default()] == ["10.10.0.0/24", "10.10.1.0/24"]
    with pytest.raises(NotFound):
        space.take_default()
    for base, size in (("10.0.0.0/16", 8), ("10.0.0.0/16", 33), ("10.0.0.1/16", 24), ("x", 24)):
        with pytest.raises(InvalidArgument):
            AddressSpace([AddressPool(base, size)])


def test_mac_follows_from_the_address() -> None:
    assert mac_of("172.17.0.2") == "02:42:ac:11:00:02"
