"""Library of lifecycle: the subnets and the pools of addresses of one network."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from common.errors import InternalError, PermissionDenied
from common.netlink import Netlink
from lifecycle.network_records import IpamConfig, NetworkRecord
from networking import bridge
from networking.ipam import AddressSpace, Pool


@dataclass(frozen=True, slots=True)
class Pools:
    """None: the network does not have the family."""

    v4: Pool | None = None
    v6: Pool | None = None

    def reserve(self, address: str) -> None:
        pool = self.of(address)
        if pool is not None:
            pool.reserve(address)

    def release(self, address: str) -> None:
        pool = self.of(address)
        if pool is not None:
            pool.release(address)

    def of(self, address: str) -> Pool | None:
        return self.v6 if ":" in address else self.v4


def assign(
    record: NetworkRecord,
    space: AddressSpace,
    host: Netlink,
    *,
    without_gateway: Collection[int] = (),
) -> tuple[NetworkRecord, Pools]:
    """A new network's subnets and gateways, which are taken.

    The families ``without_gateway`` have one only where it was asked for.
    """
    taken: list[str] = []
    pools: dict[int, Pool] = {}
    ipam: list[IpamConfig] = []
    gateways = {4: "", 6: ""}
    try:
        for version in _versions(record):
            config = _config(record, version)
            subnet = _take_subnet(config, version, space, host)
            taken.append(subnet)
            pool = pools[version] = Pool(subnet, config.ip_range if config else None)
            _reserve_auxiliary(pool, config)
            if version not in without_gateway or (config and config.gateway):
                gateways[version] = _take_gateway(pool, config)
            ipam.append(config or IpamConfig(subnet, gateway=gateways[version]))
    except Exception:
        for subnet in taken:
            space.give_back(subnet)
        raise
    subnets = {version: str(pool.subnet) for version, pool in pools.items()}
    unused = [one for one in record.ipam if one not in ipam]
    assigned = replace(
        record,
        ipam=tuple(ipam + unused),
        subnet=subnets.get(4, ""),
        bridge_address=gateways[4],
        gateway=gateways[4],
        subnet6=subnets.get(6, ""),
        bridge_address6=gateways[6],
        gateway6=gateways[6],
        automatic=tuple(version for version in pools if _config(record, version) is None),
    )
    return assigned, Pools(pools.get(4), pools.get(6))


def pools_of(record: NetworkRecord) -> Pools:
    """The pools of a network on record, without what its own configuration takes."""
    found: dict[int, Pool] = {}
    for version, subnet, own in (
        (4, record.subnet, (record.gateway, record.bridge_address)),
        (6, record.subnet6, (record.gateway6, record.bridge_address6)),
    ):
        if not subnet:
            continue
        config = _config(record, version)
        pool = found[version] = Pool(subnet, config.ip_range if config else None)
        _reserve_auxiliary(pool, config)
        for address in set(filter(None, own)):
            pool.reserve(address)
    return Pools(found.get(4), found.get(6))


def _versions(record: NetworkRecord) -> Iterable[int]:
    return [4] * record.enable_ipv4 + [6] * record.enable_ipv6


def _config(record: NetworkRecord, version: int) -> IpamConfig | None:
    configs = [one for one in record.ipam if (6 if ":" in one.subnet else 4) == version]
    if len(configs) > 1:
        raise PermissionDenied(f"{record.driver} driver doesn't support multiple subnets")
    return configs[0] if configs else None


def _take_subnet(
    config: IpamConfig | None, version: int, space: AddressSpace, host: Netlink
) -> str:
    if config is None:
        return space.take_default(bridge.host_networks(host), version=version)
    space.take(config.subnet)
    return config.subnet


def _take_gateway(pool: Pool, config: IpamConfig | None) -> str:
    if config is None or not config.gateway:
        return pool.allocate()
    try:
        pool.reserve(config.gateway)
    except PermissionDenied as error:
        raise InternalError(f"failed to allocate gateway ({config.gateway}): {error}") from error
    return config.gateway


def _reserve_auxiliary(pool: Pool, config: IpamConfig | None) -> None:
    if config is not None:
        for address in config.auxiliary.values():
            if address != config.gateway:
                pool.reserve(address)
