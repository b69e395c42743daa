"""Library of lifecycle: a running container's endpoints come and go.

The records change here, the interface is plugged by the container's shim, and a veth is taken away
by a thread of this process, because the kernel takes its time. What fails is taken back. The caller
(connections.py, remote_connections.py) holds the container's lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from common import endpoint as plugging
from common.errors import Conflict, EngineError, InternalError
from lifecycle import attachment, etcfiles
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container, describe
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, GivenEndpoint, NetworkRecord
from networking.ports import BoundPort

log = logging.getLogger(__name__)


async def plug(
    engine: Engine,
    container: Container,
    network: NetworkRecord,
    settings: EndpointSettings,
    given: GivenEndpoint | None = None,
) -> None:
    record, networks = container.record, engine.networks
    request = attachment.request_of(engine, record, settings)
    resolv_before = etcfiles.resolv_conf(engine, record)
    endpoint = networks.connect(container.id, container.name, network.id, request, given)
    bound: list[BoundPort] = []
    try:
        if not networks.published(container.id):
            bound = networks.publish(container.id, attachment.bindings(record))
        plan = networks.plan(endpoint)
        await tell_shim(engine, container, bound, endpoint=plan.to_json())
        networks.follow_gateway(container.id)
    except BaseException:
        if bound:
            networks.unpublish(container.id)
        networks.disconnect(container.id, network.id)
        await asyncio.to_thread(plugging.unplug_veth, endpoint.host_ifname)
        raise
    finally:
        for port in bound:
            port.socket.close()
    attachment.fill(settings, endpoint)
    note_ports(engine, container, bound)
    etcfiles.change_hosts(record, add=etcfiles.own_lines(record, [endpoint]))
    etcfiles.change_resolv_conf(record, resolv_before, etcfiles.resolv_conf(engine, record))


async def unplug(engine: Engine, container: Container, network: NetworkRecord) -> None:
    record, networks = container.record, engine.networks
    endpoint = endpoint_on(engine, container, network)
    resolv_before = etcfiles.resolv_conf(engine, record)
    plan = networks.plan(endpoint)
    networks.disconnect(container.id, network.id)
    is_veth = plan.kind == "veth"
    change = {} if is_veth or not endpoint.addresses else {"unplug": plan.to_json()}
    bound = publish_again(engine, container)
    try:
        work = [tell_shim(engine, container, bound, **change)]
        if is_veth and endpoint.host_ifname:
            work.append(asyncio.to_thread(plugging.unplug_veth, endpoint.host_ifname))
        await asyncio.gather(*work)
    finally:
        for port in bound:
            port.socket.close()
    note_ports(engine, container, bound)
    etcfiles.change_hosts(record, remove=etcfiles.own_lines(record, [endpoint]))
    etcfiles.change_resolv_conf(record, resolv_before, etcfiles.resolv_conf(engine, record))


def publish_again(engine: Engine, container: Container) -> list[BoundPort]:
    """The network that had the default route may have been one that cannot publish ports."""
    if engine.networks.published(container.id):
        return []
    try:
        return engine.networks.publish(container.id, attachment.bindings(container.record))
    except EngineError as error:
        log.warning("%s has no ports any more: %s", describe(container), error)
        return []


def note_ports(engine: Engine, container: Container, bound: Iterable[BoundPort]) -> None:
    """What inspect shows: none, or those that were published just now, or the same as before."""
    if bound or not engine.networks.published(container.id):
        attachment.set_ports(container.record, bound)


async def tell_shim(
    engine: Engine, container: Container, bound: Any, **change: dict[str, Any]
) -> None:
    networks = engine.networks
    if container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    await container.shim.call(
        "network",
        [port.socket.fileno() for port in bound],
        ports=attachment.port_messages(engine, container, bound),
        gateways=[networks.plan(one).to_json() for one in networks.gateways_of(container.id)],
        resolver=attachment.resolver(engine, container),
        port_targets=networks.port_targets(container.id),
        **change,
    )


def endpoint_on(engine: Engine, container: Container, network: NetworkRecord) -> EndpointRecord:
    for endpoint in engine.networks.members(network.id):
        if endpoint.container_id == container.id:
            return endpoint
    raise InternalError(f"container {container.id} is not connected to network {network.name}")
