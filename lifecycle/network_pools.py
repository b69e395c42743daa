"""Library of lifecycle: the subnet and the pool of addresses of one network."""

from __future__ import annotations

from dataclasses import replace

from common.errors import InternalError, PermissionDenied
from common.netlink import Netlink
from lifecycle.network_records import IpamConfig, NetworkRecord
from networking import bridge
from networking.ipam import AddressSpace, Pool


def assign(record: NetworkRecord, space: AddressSpace, host: Netlink) -> tuple[NetworkRecord, Pool]:
    """A new network's subnet and gateway, which are taken."""
    configs = _ipv4(record)
    if len(configs) > 1:
        raise PermissionDenied("bridge driver doesn't support multiple subnets")
    config = configs[0] if configs else None
    if config is None:
        subnet = space.take_default(bridge.host_networks(host))
    else:
        subnet = config.subnet
        space.take(subnet)
    try:
        pool = Pool(subnet, config.ip_range if config else None)
        _reserve_auxiliary(pool, record)
        gateway = _take_gateway(pool, config)
    except Exception:
        space.give_back(subnet)
        raise
    ipam = record.ipam or (IpamConfig(subnet, gateway=gateway),)
    assigned = replace(record, ipam=ipam, subnet=subnet, bridge_address=gateway, gateway=gateway)
    return assigned, pool


def pool_of(record: NetworkRecord) -> Pool:
    """The pool of a network on record, without what its own configuration takes."""
    configs = _ipv4(record)
    pool = Pool(record.subnet, configs[0].ip_range if configs else None)
    _reserve_auxiliary(pool, record)
    for address in {record.gateway, record.bridge_address}:
        pool.reserve(address)
    return pool


def _ipv4(record: NetworkRecord) -> list[IpamConfig]:
    return [config for config in record.ipam if ":" not in config.subnet]


def _take_gateway(pool: Pool, config: IpamConfig | None) -> str:
    if config is None or not config.gateway:
        return pool.allocate()
    try:
        pool.reserve(config.gateway)
    except PermissionDenied as error:
        raise InternalError(f"failed to allocate gateway ({config.gateway}): {error}") from error
    return config.gateway


def _reserve_auxiliary(pool: Pool, record: NetworkRecord) -> None:
    for config in _ipv4(record):
        for address in config.auxiliary.values():
            if address != config.gateway:
                pool.reserve(address)
