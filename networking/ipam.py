"""Library of lifecycle: which subnet a network gets, and which address an endpoint.

Nothing is stored here: lifecycle's records of networks and endpoints are the truth, and after a
restart it reserves from them again. Like Docker's, the choice is deterministic: the first default
subnet that overlaps nothing, the lowest address that is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from common.errors import InternalError, InvalidArgument, NotFound, PermissionDenied
from common.options import AddressPool

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

DEFAULT_POOLS = (
    AddressPool("172.17.0.0/16", 16),
    AddressPool("172.18.0.0/16", 16),
    AddressPool("172.19.0.0/16", 16),
    AddressPool("172.20.0.0/14", 16),
    AddressPool("172.24.0.0/14", 16),
    AddressPool("172.28.0.0/14", 16),
    AddressPool("192.168.0.0/16", 20),
)


class Pool:
    """The addresses of one network's subnet."""

    def __init__(self, subnet: str, ip_range: str | None = None) -> None:
        self.subnet: Network = ip_network(subnet)
        whole: Network = ip_network(ip_range) if ip_range else self.subnet
        self._base = int(self.subnet.network_address)
        self._low = int(whole.network_address)
        self._end = self._low + whole.num_addresses
        self._used: set[int] = set()
        self._next = self._low  # nothing below it, in the range, is free
        if self.subnet.version == 4 and self.subnet.num_addresses > 2:
            self._used = {self._base, int(self.subnet.broadcast_address)}
        elif self.subnet.version == 6:
            self._used = {self._base}  # the subnet-router anycast address

    def __contains__(self, address: str) -> bool:
        return ip_address(address) in self.subnet

    @property
    def prefix_length(self) -> int:
        return self.subnet.prefixlen

    def allocate(self) -> str:
        """The lowest free address."""
        for candidate in range(self._next, self._end):
            if candidate not in self._used:
                self._used.add(candidate)
                self._next = candidate + 1
                return str(self._address(candidate))
        self._next = self._end
        raise InternalError(
            f"no available IPv{self.subnet.version} addresses on this network's address pools"
        )

    def reserve(self, address: str) -> None:
        """Take a certain address, inside the range or not."""
        parsed = ip_address(address)
        if parsed not in self.subnet:
            raise InvalidArgument(f"requested address {address} is not in subnet {self.subnet}")
        if int(parsed) in self._used:
            raise PermissionDenied("Address already in use")
        self._used.add(int(parsed))

    def release(self, address: str) -> None:
        number = int(ip_address(address))
        self._used.discard(number)
        if self._low <= number < self._next:
            self._next = number

    def _address(self, number: int) -> Address:
        return IPv4Address(number) if self.subnet.version == 4 else IPv6Address(number)


class AddressSpace:
    """The subnets of all networks."""

    def __init__(self, default_pools: Sequence[AddressPool] = (), *, seed: bytes = b"") -> None:
        """``seed`` tells this host from others: unique local IPv6 subnets follow from it."""
        self._defaults = tuple(default_pools) or DEFAULT_POOLS
        if not any(":" in pool.base for pool in self._defaults):
            self._defaults += (AddressPool(unique_local_prefix(seed), 64),)
        for pool in self._defaults:
            _validate_default(pool)
        self._taken: dict[Network, None] = {}

    def take(self, subnet: str) -> None:
        """A subnet that was asked for; the host's own routes are the asker's business."""
        wanted = ip_network(subnet)
        if any(_overlap(wanted, other) for other in self._taken):
            raise PermissionDenied(
                "invalid pool request: Pool overlaps with other one on this address space"
            )
        self._taken[wanted] = None

    def take_default(self, host_networks: Iterable[str] = (), *, version: int = 4) -> str:
        """The first default subnet that overlaps neither a network nor the host's routes."""
        busy = [*self._taken, *(ip_network(other, strict=False) for other in host_networks)]
        for candidate in self._candidates(version):
            if not any(_overlap(candidate, other) for other in busy):
                self._taken[candidate] = None
                return str(candidate)
        raise NotFound("all predefined address pools have been fully subnetted")

    def give_back(self, subnet: str) -> None:
        self._taken.pop(ip_network(subnet), None)

    def _candidates(self, version: int) -> Iterator[Network]:
        for pool in self._defaults:
            base = ip_network(pool.base)
            if base.version == version:
                yield from base.subnets(new_prefix=pool.size)


def mac_of(address: str) -> str:
    """A MAC that follows from the address; from an IPv6 one's last four bytes.

    Docker 28 draws it at random and announces it. With this one a new container on an address just
    given back is reached at once, although neighbours still hold the old container's entry.
    """
    return (b"\x02\x42" + ip_address(address).packed[-4:]).hex(":")


def unique_local_prefix(seed: bytes) -> str:
    """A /48 of fd00::/8 (RFC 4193), the same at every start of a host."""
    packed = b"\xfd" + hashlib.sha256(b"longshore " + seed).digest()[:5] + bytes(10)
    return f"{IPv6Address(packed)}/48"


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _validate_default(pool: AddressPool) -> None:
    try:
        base = ip_network(pool.base)
    except ValueError as error:
        raise InvalidArgument(f"invalid base pool {pool.base!r}: {error}") from error
    if not base.prefixlen <= pool.size <= base.max_prefixlen:
        raise InvalidArgument(
            f"invalid pools provided: /{pool.size} is no subnet size within {pool.base}"
        )
