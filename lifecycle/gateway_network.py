"""Library of lifecycle: the way out of a container that only plugins' networks are in.

A network driver need not give a gateway. Unless it says that none is wanted, such a container gets
an endpoint on a bridge network of this engine's, ``docker_gwbridge``, which is made when it is
wanted first; its ports are published there. Containers do not reach each other on it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from common import endpoint as plugging
from common.errors import InternalError, NotFound
from common.ids import new_id, short
from lifecycle import attachment, network_rules, sandboxes
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.network_records import (
    EndpointRecord,
    EndpointRequest,
    GivenEndpoint,
    NetworkRecord,
    NetworkRequest,
)
from networking.ports import BoundPort

NAME = "docker_gwbridge"


async def adjust(engine: Engine, container: Container) -> list[BoundPort]:
    """Connect the container there or disconnect it, as its other networks have it now.

    Its namespace is mounted. The ports that were bound are the caller's.
    """
    found = [one for one in engine.networks.endpoints_of(container.id) if one.is_gateway]
    wanted = _is_wanted(engine, container.id)
    if wanted and not found:
        return await _connect(engine, container)
    if found and not wanted:
        await _disconnect(engine, container, found[0])
    return []


def _is_wanted(engine: Engine, container_id: str) -> bool:
    if engine.networks.leads_out(container_id):
        return False
    return any(
        engine.networks.network_of(record).is_remote
        and not engine.networks.network_of(record).internal
        and not record.no_gateway_network
        for record in engine.networks.endpoints_of(container_id)
    )


async def _connect(engine: Engine, container: Container) -> list[BoundPort]:
    networks = engine.networks
    network = _network(engine)
    given = GivenEndpoint(new_id(), dns=False, is_gateway=True)
    name = f"gateway_{short(container.id)}"
    record = networks.connect(container.id, name, network.id, EndpointRequest(), given)
    bound: list[BoundPort] = []
    if not networks.published(container.id):
        bound = networks.publish(container.id, attachment.bindings(container.record))
        attachment.set_ports(container.record, bound)
    path = str(sandboxes.path(engine.paths, container.id))
    try:
        await asyncio.to_thread(plugging.plug_at, path, networks.plan(record))
    except OSError as error:
        for port in bound:
            port.socket.close()
        raise InternalError(
            f"container {container.id}: endpoint join on GW Network failed: {error.strerror}"
        ) from error
    return bound


async def _disconnect(engine: Engine, container: Container, record: EndpointRecord) -> None:
    engine.networks.disconnect(container.id, record.network_id)
    await asyncio.to_thread(plugging.unplug_veth, record.host_ifname)


def _network(engine: Engine) -> NetworkRecord:
    with suppress(NotFound):
        return engine.networks.get(NAME)
    options = {network_rules.ENABLE_ICC: "false", network_rules.ENABLE_MASQUERADE: "true"}
    if not engine.networks.has_link(NAME):  # another engine's
        options[network_rules.BRIDGE_NAME] = NAME
    return engine.networks.create(NetworkRequest(NAME, options=options))
