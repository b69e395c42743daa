"""Library of lifecycle: a container's networks and ports, from its start to its exit.

The network objects are NetworkService's; here stands what a container's record says of them, what
the shim is told, and the files below /etc that depend on it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from common import resolvconf
from common.errors import EngineError, NotFound
from common.ids import new_id
from common.resolverconfig import NamedNetwork, ResolverConfig
from lifecycle import etcfiles, netfiles
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container
from lifecycle.endpoints import target_for
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, EndpointRequest, GivenEndpoint
from lifecycle.shims import Shim
from networking.ports import BoundPort, PortBinding, parse_container_port, parse_host_ports
from shim.protocol import MAX_DESCRIPTORS

_OPERATIONAL = (
    "endpoint_id",
    "gateway",
    "ip_address",
    "ip_prefix_len",
    "ipv6_gateway",
    "ipv6_address",
    "ipv6_prefix_len",
    "assigned_mac",
)


def attach(
    engine: Engine,
    container: Container,
    sockets: list[socket.socket],
    given: Mapping[str, GivenEndpoint] = MappingProxyType({}),
) -> dict[str, Any]:
    """Get addresses and ports; the answer is ``network`` and ``ports`` of the shim's start.

    The bound sockets are appended to ``sockets``, which the caller closes once the shim has them.
    ``given`` is what plugins have said of the container's networks, by name.
    """
    record = container.record
    if record.host_config.network_mode.startswith("container:"):
        return {"network": None, "resolver": None, "ports": []}
    try:
        for settings in record.endpoints:
            found = engine.networks.connect(
                container.id,
                container.name,
                settings.network,
                request_of(engine, record, settings),
                given.get(settings.network),
            )
            fill(settings, found)
        bound = engine.networks.publish(container.id, bindings(record))
    except EngineError as error:
        raise type(error)(f"failed to set up container networking: {error}") from error
    sockets += [port.socket for port in bound]
    record.sandbox_id = new_id()
    set_ports(record, bound)
    if record.host_config.network_mode == "host":
        return {"network": None, "resolver": None, "ports": []}
    endpoints = engine.networks.for_shim(container.id)
    return {
        "network": {"endpoints": [endpoint.to_json() for endpoint in endpoints]},
        "resolver": resolver(engine, container),
        "ports": port_messages(engine, container, bound),
    }


def port_messages(
    engine: Engine, container: Container, bound: Iterable[BoundPort]
) -> list[dict[str, Any]]:
    """What the shim is told of each bound socket."""
    targets = engine.networks.port_targets(container.id)
    return [
        {
            "proto": port.proto,
            "container_ip": target_for(port.host_ip, targets),
            "container_port": port.container_port,
        }
        for port in bound
    ]


async def send_surplus_ports(
    shim: Shim, sockets: list[socket.socket], network: dict[str, Any]
) -> None:
    """A message carries so many sockets and no more: the rest goes ahead."""
    while len(sockets) > MAX_DESCRIPTORS:
        group = sockets[-MAX_DESCRIPTORS:]
        ports = network["ports"][-MAX_DESCRIPTORS:]
        await shim.call("ports", [item.fileno() for item in group], ports=ports)
        del sockets[-MAX_DESCRIPTORS:], network["ports"][-MAX_DESCRIPTORS:]
        for item in group:
            item.close()


def resolver(engine: Engine, container: Container) -> dict[str, Any] | None:
    """What the container's own DNS server answers; None where no network of its has names."""
    endpoints = engine.networks.endpoints_of(container.id)
    named = [one for one in endpoints if engine.networks.network_of(one).user_defined]
    if not named:
        return None
    settings = etcfiles.dns_settings(engine, container.record.host_config)
    gateways = engine.networks.gateways_of(container.id)
    return ResolverConfig(
        networks=tuple(
            NamedNetwork(
                directory=str(engine.networks.names_of(one.network_id)),
                name=one.network_name,
                links=one.links,
            )
            for one in named
        ),
        servers=settings.servers,
        has_ipv6=any(one.gateway6 for one in gateways),
        forwards=bool(gateways) or engine.networks.may_lead_out(container.id),
        keeps_plain_names=netfiles.has_ndots(resolvconf.read_host(), settings),
    ).to_json()


def detach(engine: Engine, container: Container) -> None:
    """Give everything back; harmless where nothing was had."""
    engine.networks.release(container.id)
    forget(container.record)


def forget(record: pb.Container) -> None:
    """What inspect shows of a container that has nothing any more."""
    for settings in record.endpoints:
        clear(settings)
    del record.ports[:]
    record.sandbox_id = record.sandbox_key = ""


def request_of(engine: Engine, record: pb.Container, settings: EndpointSettings) -> EndpointRequest:
    return EndpointRequest(
        hostname=record.config.hostname,
        aliases=tuple(settings.aliases.values),
        ipv4=settings.ipv4_request,
        ipv6=settings.ipv6_request,
        link_local=tuple(settings.link_local.values),
        links=_links(engine, settings.links.values),
        mac=settings.mac_address,
        driver_opts=dict(settings.driver_opts),
        gw_priority=settings.gw_priority,
    )


def _links(engine: Engine, links: Iterable[str]) -> dict[str, str]:
    """``container:alias`` each; a container that does not exist now has no name to lead to."""
    found = {}
    for link in links:
        target, _, alias = link.partition(":")
        with suppress(NotFound):
            target = engine.containers.find(target).name
        found[(alias or target).lower()] = target
    return found


def fill(settings: EndpointSettings, found: EndpointRecord) -> None:
    """What inspect shows of a connected endpoint."""
    settings.network_id = found.network_id
    settings.endpoint_id = found.id
    settings.gateway = found.gateway
    settings.ip_address = found.ip_address
    settings.ip_prefix_len = found.ip_prefix_length
    settings.ipv6_gateway = found.gateway6
    settings.ipv6_address = found.ip6_address
    settings.ipv6_prefix_len = found.ip6_prefix_length
    settings.assigned_mac = found.mac
    settings.dns_names[:] = found.dns_names


def refresh_names(engine: Engine, container: Container) -> None:
    """The container has got another name."""
    found = {one.id: one for one in engine.networks.endpoints_of(container.id)}
    for settings in container.record.endpoints:
        if settings.endpoint_id in found:
            settings.dns_names[:] = found[settings.endpoint_id].dns_names


def clear(settings: EndpointSettings) -> None:
    """What stays of it when the container has stopped: the network, and what was asked for."""
    for name in _OPERATIONAL:
        settings.ClearField(name)


def bindings(record: pb.Container) -> list[PortBinding]:
    """Published ports in the order of their numbers, so that ephemeral ones are given in it."""
    found: list[PortBinding] = []
    published = set()
    for binding in record.host_config.port_bindings:
        number, proto = parse_container_port(binding.port)
        published.add((number, proto))
        if not binding.host and not binding.is_null:
            found.append(PortBinding(proto, number))
        found += [
            PortBinding(proto, number, host.host_ip, parse_host_ports(host.host_port))
            for host in binding.host
        ]
    if record.host_config.publish_all_ports:
        exposed = map(parse_container_port, record.config.exposed_ports.values)
        found += [
            PortBinding(proto, number)
            for number, proto in exposed
            if (number, proto) not in published
        ]
    return sorted(found, key=lambda item: (item.container_port, item.proto))


def set_ports(record: pb.Container, bound: Iterable[BoundPort]) -> None:
    del record.ports[:]
    record.ports.extend(_bound(record, bound))


def _bound(record: pb.Container, bound: Iterable[BoundPort]) -> list[pb.PortBinding]:
    """Every port that is exposed or published, with where it answers."""
    ports: dict[str, pb.PortBinding] = {}
    for port in bound:
        name = f"{port.container_port}/{port.proto}"
        entry = ports.setdefault(name, pb.PortBinding(port=name))
        entry.host.add(host_ip=port.host_ip, host_port=str(port.host_port))
    for name in record.config.exposed_ports.values:
        ports.setdefault(name, pb.PortBinding(port=name, is_null=True))
    return list(ports.values())


def files(engine: Engine, container: Container) -> dict[str, str]:
    """Write /etc/hostname, hosts and resolv.conf; where each is to be mounted from."""
    record = container.record
    host = record.host_config
    if host.network_mode.startswith("container:"):
        other = engine.containers.find(host.network_mode.removeprefix("container:"))
        directory = other.record.directory
    else:
        directory = record.directory
        etcfiles.write(engine, record)
    return {f"/etc/{name}": f"{directory}/{name}" for name in ("resolv.conf", "hostname", "hosts")}
