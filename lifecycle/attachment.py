"""Library of lifecycle: a container's networks and ports, from its start to its exit.

The network objects are NetworkService's; here stands what a container's record says of them, what
the shim is told, and the files below /etc that depend on it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from common.errors import EngineError
from common.ids import new_id
from lifecycle import etcfiles
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, EndpointRequest
from networking.ports import BoundPort, PortBinding, parse_container_port, parse_host_ports


def attach(engine: Engine, container: Container, sockets: list[socket.socket]) -> dict[str, Any]:
    """Get addresses and ports; the answer is ``network`` and ``ports`` of the shim's start.

    The bound sockets are appended to ``sockets``, which the caller closes once the shim has them.
    """
    record = container.record
    if record.host_config.network_mode.startswith("container:"):
        return {"network": None, "ports": []}
    try:
        for settings in record.endpoints:
            found = engine.networks.connect(
                container.id, container.name, settings.network, request_of(settings)
            )
            fill(settings, found)
        bound = engine.networks.publish(container.id, _bindings(record))
    except EngineError as error:
        raise type(error)(f"failed to set up container networking: {error}") from error
    sockets += [port.socket for port in bound]
    record.sandbox_id = new_id()
    del record.ports[:]
    record.ports.extend(_bound(record, bound))
    if record.host_config.network_mode == "host":
        return {"network": None, "ports": []}
    endpoints = engine.networks.for_shim(container.id)
    gateway = engine.networks.gateway_of(container.id)
    return {
        "network": {"endpoints": [endpoint.to_json() for endpoint in endpoints]},
        "ports": [
            {
                "proto": port.proto,
                "container_ip": gateway.ip_address if gateway else "",
                "container_port": port.container_port,
            }
            for port in bound
        ],
    }


def detach(engine: Engine, container: Container) -> None:
    """Give everything back; harmless where nothing was had."""
    record = container.record
    engine.networks.release(container.id)
    for settings in record.endpoints:
        clear(settings)
    del record.ports[:]
    record.sandbox_id = record.sandbox_key = ""


def request_of(settings: EndpointSettings) -> EndpointRequest:
    return EndpointRequest(
        aliases=tuple(settings.aliases.values),
        ipv4=settings.ipv4_request,
        mac=settings.mac_address,
        driver_opts=dict(settings.driver_opts),
        gw_priority=settings.gw_priority,
    )


def fill(settings: EndpointSettings, found: EndpointRecord) -> None:
    """What inspect shows of a connected endpoint."""
    settings.network_id = found.network_id
    settings.endpoint_id = found.id
    settings.gateway = found.gateway
    settings.ip_address = found.ip_address
    settings.ip_prefix_len = found.ip_prefix_length
    settings.assigned_mac = found.mac
    settings.dns_names[:] = found.dns_names


def clear(settings: EndpointSettings) -> None:
    """What stays of it when the container has stopped: the network, and what was asked for."""
    for name in ("endpoint_id", "gateway", "ip_address", "ip_prefix_len", "assigned_mac"):
        settings.ClearField(name)


def _bindings(record: pb.Container) -> list[PortBinding]:
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
