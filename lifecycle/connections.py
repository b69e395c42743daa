"""Library of lifecycle: connecting a container to a network and disconnecting it, at any time.

A container that does not run only has the wish written down, in its record's endpoints. For one
that runs see live_endpoints.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from common.errors import Conflict, EngineError, InternalError, InvalidArgument, NotFound
from lifecycle import attachment, remote_connections, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container, describe
from lifecycle.endpoints import dns_names
from lifecycle.engine import Engine
from lifecycle.live_endpoints import plug, tell_shim, unplug
from lifecycle.network_records import NetworkRecord

log = logging.getLogger(__name__)

SHARED = (
    "container sharing network namespace with another container or host cannot be connected to any "
    "other network"
)
TO_HOST = (
    "cannot connect container to host network - container must be created in host network mode"
)
FROM_HOST = (
    "cannot disconnect container from host network - container was created in host network mode"
)
NONE = (
    "container cannot be connected to multiple networks with one of the networks in private "
    "(none) mode"
)


async def connect(
    engine: Engine, container: Container, ref: str, settings: EndpointSettings
) -> None:
    async with container.lock:
        _check_alive(container)
        if container.record.host_config.network_mode.startswith("container:"):
            raise InvalidArgument(SHARED)
        try:
            network = engine.networks.get(ref)
        except NotFound:
            if container.has_process:
                raise
            network = None  # its start will look again
        if network is not None:
            request = attachment.request_of(engine, container.record, settings)
            engine.networks.check(ref, request, prefix=False)
            _check_mix(engine, container, network)
        settings.network = network.name if network else ref
        if container.has_process:
            assert network is not None, "a running container's network exists"
            if network.uses_plugins:
                await remote_connections.plug(engine, container, network, settings)
            else:
                await plug(engine, container, network, settings)
        elif _index(engine, container.record, network, settings.network) is not None:
            return
        elif network is not None:
            names = dns_names(network, container.id, container.name, request)
            settings.dns_names[:] = names
        container.record.endpoints.append(settings)
        engine.containers.save(container)


async def disconnect(engine: Engine, container: Container, ref: str, *, force: bool) -> None:
    async with container.lock:
        try:
            network: NetworkRecord | None = engine.networks.get(ref)
        except NotFound:
            if container.has_process and not force:
                raise
            network = None
        name = network.name if network else ref
        index = _index(engine, container.record, network, name)
        if not container.has_process or network is None:
            _check_alive(container)
            if index is None:
                raise InternalError(
                    f"container {container.id} is not connected to the network {name}"
                )
        else:
            if container.record.host_config.network_mode == network.driver == "host":
                raise InvalidArgument(FROM_HOST)
            if network.uses_plugins:
                await remote_connections.unplug(engine, container, network)
            else:
                await unplug(engine, container, network)
        if index is not None:
            del container.record.endpoints[index]
        engine.containers.save(container)


def force_disconnect(engine: Engine, container_ref: str, ref: str) -> None:
    """Of a container that is not known any more, but whose endpoint is."""
    network = engine.networks.get(ref)
    for endpoint in engine.networks.members(network.id):
        if container_ref in (endpoint.container_name, endpoint.container_id):
            engine.networks.disconnect(endpoint.container_id, network.id)
            return
    raise NotFound(f"No such container: {container_ref}")


def settle(engine: Engine, live: Iterable[str]) -> list[Container]:
    """Finish what the last process had begun, backwards; returns whose shims are to be told.

    A connect that the container's record does not know is taken back, and a disconnect of which
    only the record is left is done. An exit and a rename do not write down what inspect shows of
    networks: that is seen to here.
    """
    for item in engine.containers:
        if not item.has_process:
            attachment.forget(item.record)
    containers = [found for found in map(engine.containers.get, live) if found is not None]
    before = {item.id: _endpoint_ids(engine, item) for item in containers}
    known = {settings.endpoint_id for item in containers for settings in item.record.endpoints}
    engine.networks.restore([item.id for item in containers], known)
    changed = []
    for item in containers:
        _settle_name(engine, item)
        present = _endpoint_ids(engine, item)
        gone = [one for one in item.record.endpoints if one.endpoint_id not in present]
        for settings in gone:
            item.record.endpoints.remove(settings)
        unpublished = bool(item.record.ports) and not engine.networks.published(item.id)
        if unpublished:
            attachment.set_ports(item.record, ())
        if gone or unpublished:
            engine.containers.save(item)
        if gone or present != before[item.id]:
            changed.append(item)
    return changed


def _settle_name(engine: Engine, container: Container) -> None:
    endpoints = engine.networks.endpoints_of(container.id)
    if any(one.container_name != container.name and not one.is_gateway for one in endpoints):
        engine.networks.rename(container.id, container.name)
    attachment.refresh_names(engine, container)


async def tell_shims(engine: Engine, containers: Iterable[Container]) -> None:
    for item in containers:
        try:
            await tell_shim(engine, item, ())
        except EngineError as error:
            log.warning("the network of %s may be wrong: %s", describe(item), error)


def _endpoint_ids(engine: Engine, container: Container) -> set[str]:
    return {one.id for one in engine.networks.endpoints_of(container.id)}


def _check_alive(container: Container) -> None:
    if container.status in (status.REMOVING, status.DEAD):
        raise Conflict(
            f"Container {container.id} is marked for removal and cannot be connected or "
            "disconnected to the network"
        )


def _check_mix(engine: Engine, container: Container, network: NetworkRecord) -> None:
    """Docker's rules on host and none together with other networks."""
    if network.driver == "host" and container.record.host_config.network_mode != "host":
        raise InvalidArgument(TO_HOST)
    for settings in container.record.endpoints:
        try:
            other = engine.networks.get(settings.network)
        except NotFound:
            continue
        if other.id == network.id:
            return
        if "host" in (other.driver, network.driver):
            raise InvalidArgument(SHARED)
        if "none" in (other.name, network.name):
            raise InvalidArgument(NONE)


def _index(
    engine: Engine, record: pb.Container, network: NetworkRecord | None, name: str
) -> int | None:
    """Which of the record's endpoints is on the network; it may be named by its id there."""
    for index, settings in enumerate(record.endpoints):
        if settings.network == name:
            return index
        if network is not None:
            try:
                found = engine.networks.get(settings.network)
            except EngineError:
                continue
            if found.id == network.id:
                return index
    return None
