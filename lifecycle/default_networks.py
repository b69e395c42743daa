"""Library of lifecycle: the networks that exist without being asked for: bridge, host and none.

Their ids stay the same from start to start; what the bridge is like follows the engine's options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_interface, ip_network

from common.errors import InvalidArgument
from common.ids import new_id
from common.netlink import Netlink
from common.options import EngineOptions
from lifecycle import network_rules as rules
from lifecycle.network_records import IpamConfig, NetworkRecord
from networking import bridge
from networking.ipam import AddressSpace

DEFAULT_MTU = 1500
# Another engine's docker0 is left alone.
BRIDGE_NAMES = ("docker0", *(f"longshore{number}" for number in range(10)))


def simple_network(name: str, driver: str, known: NetworkRecord | None) -> NetworkRecord:
    if known is not None:
        return known
    return NetworkRecord(new_id(), name, time.time_ns(), driver, predefined=True)


def default_bridge(
    known: NetworkRecord | None,
    options: EngineOptions,
    space: AddressSpace,
    host: Netlink,
    owner_prefix: str,
) -> NetworkRecord:
    """The network ``bridge``, with its subnet taken from ``space``."""
    record = known or NetworkRecord(new_id(), "bridge", time.time_ns(), "bridge", predefined=True)
    owner = owner_prefix + record.id
    own = (record.bridge,) if record.bridge and not record.adopted else ()
    name = options.bridge or bridge.free_name(host, (*own, *BRIDGE_NAMES), owner)
    link = host.link(name)
    adopted = link is not None and link.alias != owner
    address = options.bip or (_address_of(host, link.index) if link and adopted else None)
    if address:
        interface = ip_interface(address)
        subnet, bridge_address = str(interface.network), str(interface.ip)
        space.take(subnet)
    else:
        subnet = _subnet(record, space, host)
        bridge_address = str(ip_network(subnet)[1])
    mtu = options.mtu or DEFAULT_MTU
    gateway = options.default_gateway or bridge_address
    if ip_interface(gateway).ip not in ip_network(subnet):
        raise InvalidArgument(f"default gateway {gateway} is not in the bridge's subnet {subnet}")
    record = replace(
        record,
        bridge=name,
        adopted=adopted,
        subnet=subnet,
        bridge_address=bridge_address,
        gateway=gateway,
        mtu=mtu,
        enable_ipv6=options.ipv6,
        subnet6="",
        bridge_address6="",
        gateway6="",
        ipam=(IpamConfig(subnet, _range(options.fixed_cidr, subnet), gateway),),
        options=_driver_options(name, options, mtu),
    )
    return _with_ipv6(record, known, options, space, host) if options.ipv6 else record


def _with_ipv6(
    record: NetworkRecord,
    known: NetworkRecord | None,
    options: EngineOptions,
    space: AddressSpace,
    host: Netlink,
) -> NetworkRecord:
    """--bip6, else the subnet of --fixed-cidr-v6, else that of the last start, else a free one."""
    if options.bip6:
        interface = ip_interface(options.bip6)
        subnet, address = str(interface.network), str(interface.ip)
        space.take(subnet)
    else:
        subnet = options.fixed_cidr_v6 or (known.subnet6 if known else "")
        if subnet:
            space.take(subnet)
        else:
            subnet = space.take_default(bridge.host_networks(host), version=6)
        address = str(ip_network(subnet)[1])
    gateway = options.default_gateway_v6 or address
    config = IpamConfig(subnet, _range(options.fixed_cidr_v6, subnet), gateway)
    return replace(
        record,
        subnet6=subnet,
        bridge_address6=address,
        gateway6=gateway,
        ipam=(*record.ipam, config),
    )


def _subnet(record: NetworkRecord, space: AddressSpace, host: Netlink) -> str:
    """The one of the last start, so that running containers keep their addresses."""
    if record.subnet and not record.adopted:
        space.take(record.subnet)
        return record.subnet
    return space.take_default(bridge.host_networks(host))


def _range(wanted: str | None, subnet: str) -> str:
    if not wanted or wanted == subnet:
        return ""
    if not ip_network(wanted).subnet_of(ip_network(subnet)):  # type: ignore[arg-type]
        raise InvalidArgument(f"fixed CIDR {wanted} is not in the subnet {subnet}")
    return wanted


def _address_of(host: Netlink, index: int) -> str | None:
    addresses = [one for one in host.addresses(index) if ":" not in one]
    return addresses[0] if addresses else None


def _driver_options(name: str, options: EngineOptions, mtu: int) -> Mapping[str, str]:
    return {
        "com.docker.network.bridge.default_bridge": "true",
        rules.ENABLE_ICC: str(options.inter_container).lower(),
        rules.ENABLE_MASQUERADE: str(options.ip_masquerade).lower(),
        rules.HOST_BINDING: options.default_bind_address,
        rules.BRIDGE_NAME: name,
        rules.MTU: str(mtu),
    }
