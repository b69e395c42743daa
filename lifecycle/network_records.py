"""Library of lifecycle: what is known of networks and endpoints, and the tables that keep it.

    networks          id, name, data (JSON of NetworkRecord)
    endpoints         id, network_id, container_id, data (JSON of EndpointRecord)
    published_ports   container_id, data (JSON list of PublishedPort)

An endpoint exists while its container runs; what a container asks of its networks is in the
container's own record. Everything is in memory too, so that reading needs no statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from common.database import Database
from networking.firewall import PublishedPort

BUILT_IN = frozenset(("bridge", "host", "ipvlan", "macvlan", "null"))
BUILT_IN_IPAM = frozenset(("default", "null"))

MIGRATIONS = (
    """
    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, data TEXT NOT NULL);
    CREATE TABLE endpoints (
        id TEXT PRIMARY KEY,
        network_id TEXT NOT NULL,
        container_id TEXT NOT NULL,
        data TEXT NOT NULL
    );
    CREATE TABLE published_ports (container_id TEXT PRIMARY KEY, data TEXT NOT NULL)
    """,
)


@dataclass(frozen=True, slots=True)
class IpamConfig:
    subnet: str
    ip_range: str = ""
    gateway: str = ""
    auxiliary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemotePool:
    """Addresses that an IPAM plugin gives out; those here are with prefix length."""

    version: int
    pool_id: str
    pool: str
    space: str
    gateway: str = ""
    auxiliary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    name: str
    driver: str = "bridge"
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] | None = None  # None: no such object was given
    ipam: tuple[IpamConfig, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ingress: bool = False
    scope: str = ""
    config_only: bool = False
    config_from: str = ""


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    id: str
    name: str
    created: int  # ns since 1970
    driver: str  # bridge, macvlan, ipvlan, host, null, or a plugin
    predefined: bool = False
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    config_only: bool = False  # a template for other networks, without anything in the kernel
    config_from: str = ""  # the template that this one was made from
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] | None = None  # None: no such object was given
    ipam: tuple[IpamConfig, ...] = ()  # as asked for, or as chosen where nothing was
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    bridge: str = ""  # name of the interface; of a macvlan or ipvlan network its parent
    adopted: bool = False  # the interface is the administrator's: not made, not removed
    subnet: str = ""
    bridge_address: str = ""  # without prefix length; of the host on this network
    gateway: str = ""  # what containers take as theirs: usually the same
    subnet6: str = ""
    bridge_address6: str = ""
    gateway6: str = ""
    mtu: int = 1500
    automatic: tuple[int, ...] = ()  # families whose subnet nobody asked for
    remote_pools: tuple[RemotePool, ...] = ()  # an IPAM plugin's

    @property
    def is_remote(self) -> bool:
        """Its driver is a plugin, which makes the interfaces."""
        return self.driver not in BUILT_IN

    @property
    def has_remote_ipam(self) -> bool:
        return self.ipam_driver not in BUILT_IN_IPAM

    @property
    def uses_plugins(self) -> bool:
        return self.is_remote or self.has_remote_ipam

    @property
    def user_defined(self) -> bool:
        return not self.predefined

    @property
    def subnets(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.subnet, self.subnet6)))

    @property
    def bridge_addresses(self) -> tuple[str, ...]:
        """With their prefix lengths."""
        pairs = ((self.bridge_address, self.subnet), (self.bridge_address6, self.subnet6))
        return tuple(f"{own}/{subnet.partition('/')[2]}" for own, subnet in pairs if own)


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """What a container asks of one network."""

    aliases: tuple[str, ...] = ()
    ipv4: str = ""
    mac: str = ""
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    gw_priority: int = 0
    ipv6: str = ""
    link_local: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)  # alias → the container's name
    hostname: str = ""  # the container's, one more name of it


@dataclass(frozen=True, slots=True)
class GivenEndpoint:
    """What is known of an endpoint before it is connected, where a plugin has a say in it."""

    id: str
    addresses: tuple[str, ...] = ()  # an IPAM plugin's, with prefix length
    mac: str = ""
    dns: bool = True  # has names on the network
    is_gateway: bool = False


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """What it got; the address fields are empty on the networks host and none."""

    id: str
    network_id: str
    network_name: str
    container_id: str
    container_name: str
    ifname: str = ""
    host_ifname: str = ""
    mac: str = ""
    ip_address: str = ""  # without prefix length
    ip_prefix_length: int = 0
    gateway: str = ""  # "" on an internal network
    ip6_address: str = ""
    ip6_prefix_length: int = 0
    gateway6: str = ""
    link_local: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    gw_priority: int = 0
    sysctls: Mapping[str, str] = field(default_factory=dict)
    # Of a network driver that is a plugin, what it said when the container joined:
    source: str = ""  # its interface's name on the host
    routes: tuple[tuple[str, str], ...] = ()  # destination, next hop or ""
    no_gateway_network: bool = False  # the container shall not get a way out elsewhere
    is_gateway: bool = False  # on the network that leads out where no plugin does

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.ip_address, self.ip6_address)))

    @property
    def prefixed_addresses(self) -> tuple[str, ...]:
        pairs = (
            (self.ip_address, self.ip_prefix_length),
            (self.ip6_address, self.ip6_prefix_length),
        )
        return tuple(f"{address}/{length}" for address, length in pairs if address)


class NetworkStore:
    def __init__(self, database: Database) -> None:
        database.migrate("networks", MIGRATIONS)
        self._database = database
        rows = database.connection.execute
        self.networks = {row[0]: _network(row[1]) for row in rows("SELECT id, data FROM networks")}
        self.remote = {found.id for found in self.networks.values() if found.uses_plugins}
        self.endpoints = {
            row[0]: _endpoint(row[1]) for row in rows("SELECT id, data FROM endpoints")
        }
        self.ports = {
            row[0]: _ports(row[1]) for row in rows("SELECT container_id, data FROM published_ports")
        }

    def save_network(self, record: NetworkRecord) -> None:
        self._execute(
            "INSERT OR REPLACE INTO networks VALUES (?, ?, ?)",
            record.id,
            record.name,
            _dump(record),
        )
        self.networks[record.id] = record
        if record.uses_plugins:
            self.remote.add(record.id)

    def remove_network(self, network_id: str) -> None:
        self._execute("DELETE FROM networks WHERE id = ?", network_id)
        self.networks.pop(network_id, None)
        self.remote.discard(network_id)

    def save_endpoint(self, record: EndpointRecord) -> None:
        self._execute(
            "INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?, ?)",
            record.id,
            record.network_id,
            record.container_id,
            _dump(record),
        )
        self.endpoints[record.id] = record

    def remove_endpoint(self, endpoint_id: str) -> None:
        self._execute("DELETE FROM endpoints WHERE id = ?", endpoint_id)
        self.endpoints.pop(endpoint_id, None)

    def save_ports(self, container_id: str, ports: Sequence[PublishedPort]) -> None:
        data = orjson.dumps([asdict(port) for port in ports]).decode()
        self._execute("INSERT OR REPLACE INTO published_ports VALUES (?, ?)", container_id, data)
        self.ports[container_id] = tuple(ports)

    def remove_ports(self, container_id: str) -> None:
        if container_id in self.ports:
            self._execute("DELETE FROM published_ports WHERE container_id = ?", container_id)
            del self.ports[container_id]

    def rename_container(self, container_id: str, name: str) -> None:
        for record in self.of_container(container_id):
            if record.is_gateway:
                continue
            names = tuple(name if old == record.container_name else old for old in record.dns_names)
            self.save_endpoint(replace(record, container_name=name, dns_names=names))

    def of_container(self, container_id: str) -> list[EndpointRecord]:
        return [one for one in self.endpoints.values() if one.container_id == container_id]

    def of_network(self, network_id: str) -> list[EndpointRecord]:
        return [one for one in self.endpoints.values() if one.network_id == network_id]

    def _execute(self, statement: str, *values: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement, values)


def _dump(record: NetworkRecord | EndpointRecord) -> str:
    return orjson.dumps(record).decode()


def _network(data: str) -> NetworkRecord:
    fields: dict[str, Any] = orjson.loads(data)
    fields["automatic"] = tuple(fields.get("automatic", ()))
    fields["ipam"] = tuple(IpamConfig(**config) for config in fields["ipam"])
    fields["remote_pools"] = tuple(RemotePool(**pool) for pool in fields.get("remote_pools", ()))
    return NetworkRecord(**fields)


def _endpoint(data: str) -> EndpointRecord:
    fields: dict[str, Any] = orjson.loads(data)
    for name in ("aliases", "dns_names", "link_local"):
        fields[name] = tuple(fields.get(name, ()))
    fields["routes"] = tuple((route[0], route[1]) for route in fields.get("routes", ()))
    return EndpointRecord(**fields)


def _ports(data: str) -> tuple[PublishedPort, ...]:
    return tuple(PublishedPort(**fields) for fields in orjson.loads(data))
