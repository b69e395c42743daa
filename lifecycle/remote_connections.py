"""Library of lifecycle: connecting a running container to a network that plugins have a part in.

As live_endpoints.py does it, with the calls to the plugins around it.
"""

from __future__ import annotations

from lifecycle import (
    attachment,
    etcfiles,
    gateway_network,
    live_endpoints,
    remote_endpoints,
    sandboxes,
)
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, GivenEndpoint, NetworkRecord
from networking.ports import BoundPort


async def plug(
    engine: Engine, container: Container, network: NetworkRecord, settings: EndpointSettings
) -> None:
    owners = engine.remote.leases.setdefault(container.id, [])
    before = len(owners)
    try:
        given = await remote_endpoints.lease(engine, container, network, settings)
        if network.is_remote:
            await _plug_remote(engine, container, network, settings, given)
        else:
            await live_endpoints.plug(engine, container, network, settings, given)
    except BaseException:
        for endpoint_id in owners[before:]:
            await remote_endpoints.release_one(engine, container.id, endpoint_id)
        raise


async def _plug_remote(
    engine: Engine,
    container: Container,
    network: NetworkRecord,
    settings: EndpointSettings,
    given: GivenEndpoint,
) -> None:
    networks, record = engine.networks, container.record
    resolv_before = etcfiles.resolv_conf(engine, record)
    request = attachment.request_of(engine, record, settings)
    endpoint = networks.connect(container.id, container.name, network.id, request, given)
    bound: list[BoundPort] = []
    try:
        endpoint = await remote_endpoints.create_endpoint(
            engine, container, network, endpoint, settings
        )
        sandboxes.hold(sandboxes.path(engine.paths, container.id), record.state.pid)
        endpoint = await remote_endpoints.join(engine, container, endpoint)
        bound = await gateway_network.adjust(engine, container)
        await live_endpoints.tell_shim(engine, container, bound)
        engine.networks.follow_gateway(container.id)
        await remote_endpoints.program(engine, container)
        await remote_endpoints.inform(engine, endpoint)
    except BaseException:
        await _take_out(engine, container, endpoint)
        raise
    finally:
        for port in bound:
            port.socket.close()
    attachment.fill(settings, endpoint)
    live_endpoints.note_ports(engine, container, bound)
    record.sandbox_key = str(sandboxes.path(engine.paths, container.id))
    etcfiles.change_hosts(record, add=etcfiles.own_lines(record, [endpoint]))
    etcfiles.change_resolv_conf(record, resolv_before, etcfiles.resolv_conf(engine, record))


async def unplug(engine: Engine, container: Container, network: NetworkRecord) -> None:
    endpoint = live_endpoints.endpoint_on(engine, container, network)
    if not network.is_remote:
        await live_endpoints.unplug(engine, container, network)
        await remote_endpoints.release_one(engine, container.id, endpoint.id)
        return
    record = container.record
    resolv_before = etcfiles.resolv_conf(engine, record)
    await _take_out(engine, container, endpoint)
    bound = await gateway_network.adjust(engine, container)
    bound += live_endpoints.publish_again(engine, container)
    try:
        await live_endpoints.tell_shim(engine, container, bound)
    finally:
        for port in bound:
            port.socket.close()
    await remote_endpoints.program(engine, container)
    await remote_endpoints.release_one(engine, container.id, endpoint.id)
    live_endpoints.note_ports(engine, container, bound)
    etcfiles.change_hosts(record, remove=etcfiles.own_lines(record, [endpoint]))
    etcfiles.change_resolv_conf(record, resolv_before, etcfiles.resolv_conf(engine, record))


async def _take_out(engine: Engine, container: Container, endpoint: EndpointRecord) -> None:
    """Its interface and its record; the namespace is let go of with the last."""
    await remote_endpoints.leave(engine, container.id, [endpoint.id])
    engine.networks.disconnect(container.id, endpoint.network_id)
    if not remote_endpoints.of_container(engine, container.id):
        await gateway_network.adjust(engine, container)
        sandboxes.drop(sandboxes.path(engine.paths, container.id))
        container.record.sandbox_key = ""
