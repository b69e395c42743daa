"""Library of lifecycle: containers on networks that plugins have a part in, from start to exit.

An endpoint's addresses may be an IPAM plugin's, its interface a network plugin's. ``attach`` comes
before the container exists, ``enter`` when its network namespace does, ``release`` at its end;
remote_connections.py is about those that run. The namespace is mounted below <exec root>/netns
meanwhile: that is the sandbox key by which plugins know it, and it keeps what they gave from ending
with it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from common import endpoint as plugging
from common.errors import EngineError, InternalError
from common.ids import new_id
from lifecycle import attachment, gateway_network, sandboxes
from lifecycle import remote_drivers as drivers
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container
from lifecycle.endpoints import with_addresses
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, GivenEndpoint, NetworkRecord
from lifecycle.plugins import PluginRefused
from lifecycle.remote_drivers import IPAM, NETWORK, Joined, Json
from lifecycle.remote_networks import request_address
from networking.ports import BoundPort, parse_container_port

log = logging.getLogger(__name__)

EXPOSED_PORTS = "com.docker.network.endpoint.exposedports"
PORT_MAP = "com.docker.network.portmap"
MAC_ADDRESS = "com.docker.network.endpoint.macaddress"
NO_PROXY_6TO4 = "com.docker.network.driver.private.no_proxy_6to4"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def wanted(engine: Engine, record: pb.Container) -> bool:
    """Whether plugins have a part in any of a container's networks."""
    return engine.networks.has_remote and any(
        engine.networks.remote(settings.network) is not None for settings in record.endpoints
    )


# A start


async def attach(engine: Engine, container: Container) -> dict[str, GivenEndpoint]:
    """What plugins give before the container is connected, by the network's name in its record."""
    found = {}
    for settings in container.record.endpoints:
        network = engine.networks.remote(settings.network)
        if network is not None:
            found[settings.network] = await lease(engine, container, network, settings)
    return found


async def lease(
    engine: Engine, container: Container, network: NetworkRecord, settings: EndpointSettings
) -> GivenEndpoint:
    """The endpoint's id, and an IPAM plugin's addresses for it."""
    calls = engine.remote.calls
    given = GivenEndpoint(new_id())
    engine.remote.leases.setdefault(container.id, []).append(given.id)
    calls.owners.add(given.id)
    if network.is_remote:
        await calls.sweep(network.driver)
    if not network.has_remote_ipam:
        return given
    await calls.sweep(network.ipam_driver)
    plugin = await calls.plugins.get(network.ipam_driver, IPAM)
    options = None
    if (await drivers.ipam_requirements(plugin))[0]:
        given = replace(given, mac=settings.mac_address.lower() or _random_mac(given.id))
        options = {MAC_ADDRESS: given.mac}
    addresses = []
    for version, wanted in ((4, settings.ipv4_request), (6, settings.ipv6_request)):
        if network.enable_ipv6 if version == 6 else network.enable_ipv4:
            addresses.append(await _address(engine, network, given.id, version, wanted, options))
    return replace(given, addresses=tuple(addresses))


async def _address(
    engine: Engine,
    network: NetworkRecord,
    owner: str,
    version: int,
    wanted: str,
    options: dict[str, str] | None,
) -> str:
    """From the first pool that has one."""
    pools = [pool for pool in network.remote_pools if pool.version == version]
    if wanted:
        pools = [pool for pool in pools if sandboxes.contains(pool.pool, wanted)]
    failure: EngineError = InternalError(
        f"no available IPv{version} addresses on this network's address pools: {network.name} "
        f"({network.id})"
    )
    for pool in pools:
        try:
            return await request_address(
                engine.remote.calls, owner, network.ipam_driver, pool.pool_id, wanted, options
            )
        except EngineError as error:
            failure = error
    raise failure


def _random_mac(endpoint_id: str) -> str:
    """A locally administered one; the id is random."""
    return (b"\x02" + bytes.fromhex(endpoint_id[:10])).hex(":")


async def create_endpoints(engine: Engine, container: Container) -> None:
    """Make those endpoints of the container that are not made yet, with their drivers."""
    for record in engine.networks.endpoints_of(container.id):
        network = engine.networks.network_of(record)
        if network.is_remote:
            await create_endpoint(engine, container, network, record)


async def create_endpoint(
    engine: Engine,
    container: Container,
    network: NetworkRecord,
    record: EndpointRecord,
    settings: EndpointSettings | None = None,
) -> EndpointRecord:
    by_version = {":" in one: one for one in record.prefixed_addresses}
    sent = {
        "Address": by_version.get(False, ""),
        "AddressIPv6": by_version.get(True, ""),
        "MacAddress": record.mac,
    }
    settings = settings or _settings(container.record, record)
    options: Json = dict(settings.driver_opts) if settings is not None else {}
    if record.mac:
        packed = bytes.fromhex(record.mac.replace(":", ""))
        options[MAC_ADDRESS] = base64.b64encode(packed).decode()
    options |= _port_options(container.record)
    prefix = f"failed to create endpoint {container.name} on network {network.name}: "
    step = drivers.create_endpoint(network.driver, _ids(record), sent, options)
    try:
        answer = await engine.remote.calls.acquire(record.id, step)
        record = _with_interface(record, answer.get("Interface") or {})
    except EngineError as error:
        raise InternalError(f"{prefix}{error}") from error
    engine.networks.update(record)
    if settings is not None:
        attachment.fill(settings, record)
    return record


def _with_interface(record: EndpointRecord, answer: dict[str, Any]) -> EndpointRecord:
    """What the driver has chosen; it must not change what it was given."""
    mac = str(answer.get("MacAddress") or "").lower()
    if mac and record.mac:
        raise InternalError(
            f"driver modified interface MAC address: endpoint interface MAC address present "
            f"({record.mac}). Cannot be modified with ({mac})."
        )
    if mac:
        record = replace(record, mac=_checked_mac(mac))
    for key, had in (("Address", record.ip_address), ("AddressIPv6", record.ip6_address)):
        if not answer.get(key):
            continue
        address = drivers.cidr(str(answer[key]))
        if had:
            present = next(one for one in record.prefixed_addresses if one.startswith(f"{had}/"))
            raise InternalError(
                f"driver modified interface address: endpoint interface IP present ({present}). "
                f"Cannot be modified with ({address})."
            )
        record = with_addresses(record, [address])
    return record


def _checked_mac(mac: str) -> str:
    try:
        if len(bytes.fromhex(mac.replace(":", "").replace("-", ""))) == 6:
            return mac.replace("-", ":")
    except ValueError:
        pass
    raise InternalError(f"address {mac}: invalid MAC address")


def _port_options(record: pb.Container) -> Json:
    """What the container exposes and publishes, as libnetwork writes it."""
    bindings = attachment.bindings(record)
    exposed = {parse_container_port(name) for name in record.config.exposed_ports.values}
    exposed |= {(one.container_port, one.proto) for one in bindings}
    return {
        EXPOSED_PORTS: [
            {"Proto": _PROTOCOLS.get(proto, 0), "Port": port} for port, proto in sorted(exposed)
        ],
        PORT_MAP: [
            {
                "Proto": _PROTOCOLS.get(one.proto, 0),
                "IP": "",
                "Port": one.container_port,
                "HostIP": one.host_ip,
                "HostPort": one.host_ports[0] if one.host_ports else 0,
                "HostPortEnd": one.host_ports[-1] if one.host_ports else 0,
            }
            for one in bindings
        ],
    }


def _ids(record: EndpointRecord) -> Json:
    return {"NetworkID": record.network_id, "EndpointID": record.id}


def _settings(record: pb.Container, endpoint: EndpointRecord) -> EndpointSettings | None:
    for settings in record.endpoints:
        if settings.endpoint_id == endpoint.id:
            return settings
    return None


# Into the container


async def enter(engine: Engine, container: Container, pid: int) -> list[BoundPort]:
    """The container's namespaces exist: plug what plugins give. Bound ports are the caller's."""
    remote = of_container(engine, container.id)
    path = sandboxes.path(engine.paths, container.id)
    if remote:
        sandboxes.hold(path, pid)
        container.record.sandbox_key = str(path)
    for record in remote:
        await join(engine, container, record)
    bound = await gateway_network.adjust(engine, container)
    gateways = {record.id for record in engine.networks.gateways_of(container.id)}
    for record in of_container(engine, container.id):
        if record.id in gateways:
            plan = engine.networks.plan(record)
            if record.ifname:
                await asyncio.to_thread(plugging.take_gateway_at, str(path), plan)
    await program(engine, container)
    for record in remote:
        await inform(engine, record)
    return bound


async def join(engine: Engine, container: Container, record: EndpointRecord) -> EndpointRecord:
    """Ask the driver for the interface, and move it inside; default routes come later."""
    network = engine.networks.network_of(record)
    path = sandboxes.path(engine.paths, container.id)
    step = drivers.join(network.driver, _ids(record), str(path), _port_options(container.record))
    joined = Joined.parse(await engine.remote.calls.acquire(record.id, step))
    taken = {one.ifname for one in engine.networks.endpoints_of(container.id)}
    record = replace(
        record,
        source=joined.source,
        ifname=sandboxes.free_name(joined.prefix, taken) if joined.source else "",
        gateway="" if network.internal else joined.gateway,
        gateway6=joined.gateway6 if record.ip6_address and not network.internal else "",
        routes=joined.routes,
        no_gateway_network=not joined.wants_gateway_network,
    )
    # Before the interface is moved, so that it is found again after a crash.
    engine.networks.update(record)
    settings = _settings(container.record, record)
    if settings is not None:
        attachment.fill(settings, record)
    if record.source:
        plan = replace(engine.networks.plan(record), gateway=None, gateway6=None)
        try:
            await asyncio.to_thread(plugging.plug_at, str(path), plan)
        except OSError as error:
            raise InternalError(
                f"failed to add interface {record.source} to sandbox: {error.strerror}"
            ) from error
    return record


async def program(engine: Engine, container: Container) -> None:
    """Tell drivers which of their endpoints lead out of the container now, and which do not."""
    gateways = engine.networks.gateways_of(container.id)
    leading = {record.id for record in gateways}
    revoke = f"{NETWORK}.RevokeExternalConnectivity"
    calls = engine.remote.calls
    for record in of_container(engine, container.id):
        programmed = calls.has(record.id, revoke)
        if programmed and record.id not in leading:
            await calls.undo_one(record.id, revoke)
        if programmed or record.id not in leading:
            continue
        options = {**_port_options(container.record), NO_PROXY_6TO4: False}
        others = [one for one in gateways if one.id != record.id and one.gateway6]
        options[NO_PROXY_6TO4] = bool(others) and not record.gateway6
        step = drivers.program(engine.networks.network_of(record).driver, _ids(record), options)
        try:
            await calls.acquire(record.id, step)
        except EngineError as error:
            if not _is_unknown_method(error):
                raise InternalError(
                    "driver failed programming external connectivity on endpoint "
                    f"{container.name} ({record.id}): {error}"
                ) from error


async def inform(engine: Engine, record: EndpointRecord) -> None:
    """Docker asks for a driver's own facts of an endpoint, and shows them to nobody."""
    driver = engine.networks.network_of(record).driver
    try:
        await engine.remote.calls.ask(driver, NETWORK, "EndpointOperInfo", _ids(record))
    except EngineError as error:
        log.debug("endpoint %s of the plugin %s: %s", record.id, driver, error)


def _is_unknown_method(error: EngineError) -> bool:
    return isinstance(error, PluginRefused) and error.status == 404


def of_container(engine: Engine, container_id: str) -> list[EndpointRecord]:
    return [
        record
        for record in engine.networks.endpoints_of(container_id)
        if engine.networks.network_of(record).is_remote
    ]


# The end


async def leave(engine: Engine, container_id: str, only: Iterable[str] | None = None) -> None:
    """Move interfaces back to the host: the container's last ones, or those of ``only``.

    Where it is the last, the namespace ends, with whatever this engine has put into it.
    """
    path = sandboxes.path(engine.paths, container_id)
    chosen = None if only is None else set(only)
    if sandboxes.is_held(path):
        for record in of_container(engine, container_id):
            if record.source and record.ifname and (chosen is None or record.id in chosen):
                plan = engine.networks.plan(record)
                try:
                    await asyncio.to_thread(plugging.take_back, str(path), plan)
                except OSError as error:
                    log.warning("interface %s was not given back: %s", record.source, error)
    if chosen is None:
        await asyncio.to_thread(sandboxes.drop, path)


async def release(engine: Engine, container_id: str) -> None:
    """After ``leave`` and the end of its records: tell the plugins."""
    owners = engine.remote.leases.pop(container_id, [])
    await engine.remote.calls.release(reversed(owners))


async def release_one(engine: Engine, container_id: str, endpoint_id: str) -> None:
    owners = engine.remote.leases.get(container_id, [])
    if endpoint_id in owners:
        owners.remove(endpoint_id)
        await engine.remote.calls.release([endpoint_id])


# After a start of lifecycle


async def adopt(engine: Engine, live: set[str]) -> None:
    """Before records are settled: let go of namespaces of containers that have ended meanwhile.

    Of those that run, what a connect that was never finished has put into them is taken out.
    """
    for name in sandboxes.held(engine.paths):
        container = engine.containers.get(name) if name in live else None
        if container is None:
            await leave(engine, name)
            continue
        known = {settings.endpoint_id for settings in container.record.endpoints}
        unknown = [one.id for one in of_container(engine, name) if one.id not in known]
        if unknown:
            await leave(engine, name, unknown)


def resume(engine: Engine) -> None:
    """After records were settled: what is left of them is what plugins are to keep."""
    for container in engine.containers:
        for record in engine.networks.endpoints_of(container.id):
            if engine.networks.network_of(record).uses_plugins:
                engine.remote.leases.setdefault(container.id, []).append(record.id)
    endpoints = [one for owned in engine.remote.leases.values() for one in owned]
    engine.remote.calls.start([*engine.networks.ids(), *endpoints])
    if engine.networks.has_remote:
        engine.spawn(engine.remote.replay(), "telling IPAM plugins what they have given out")
