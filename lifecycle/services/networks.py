"""Library of lifecycle: the Networks and Volumes services of networks.proto."""

from __future__ import annotations

from typing import Any

import grpc.aio

from common.errors import NotFound
from lifecycle import connections
from lifecycle._pb import networks_pb2 as pb
from lifecycle._pb.networks_pb2_grpc import NetworksServicer, VolumesServicer
from lifecycle._pb.types_pb2 import Empty, PruneReport
from lifecycle.engine import Engine
from lifecycle.network_records import EndpointRecord, IpamConfig, NetworkRecord, NetworkRequest

Context = grpc.aio.ServicerContext[Any, Any]


class Networks(NetworksServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._networks = engine.networks

    async def Create(
        self, request: pb.CreateNetworkRequest, context: Context
    ) -> pb.CreateNetworkReply:
        wanted = NetworkRequest(
            name=request.name,
            driver=request.driver or "bridge",
            internal=request.internal,
            attachable=request.attachable,
            enable_ipv4=not request.HasField("enable_ipv4") or request.enable_ipv4,
            enable_ipv6=request.enable_ipv6,
            ipam_driver=request.ipam_driver or "default",
            ipam_options=dict(request.ipam_options) if request.has_ipam_options else None,
            ipam=tuple(
                IpamConfig(item.subnet, item.ip_range, item.gateway, dict(item.auxiliary))
                for item in request.ipam
            ),
            options=dict(request.options),
            labels=dict(request.labels),
            ingress=request.ingress,
            scope=request.scope,
            config_only=request.config_only,
            config_from=request.config_from,
        )
        record = await self._engine.finish(self._engine.remote.create(wanted), "request")
        return pb.CreateNetworkReply(id=record.id)

    async def Get(self, request: pb.NetworkRef, context: Context) -> pb.Network:
        return self._describe(self._networks.get(request.ref))

    async def List(self, request: pb.ListNetworksRequest, context: Context) -> pb.NetworkList:
        found = self._networks.list_all(request.filters)
        return pb.NetworkList(networks=[self._describe(record) for record in found])

    async def Remove(self, request: pb.NetworkRef, context: Context) -> Empty:
        await self._engine.finish(self._engine.remote.remove(request.ref), "request")
        return Empty()

    async def Connect(self, request: pb.ConnectRequest, context: Context) -> Empty:
        container = self._engine.containers.find(request.container)
        work = connections.connect(self._engine, container, request.network, request.settings)
        await self._engine.finish(work, "request")
        return Empty()

    async def Disconnect(self, request: pb.DisconnectRequest, context: Context) -> Empty:
        try:
            container = self._engine.containers.find(request.container)
        except NotFound:
            if not request.force:
                raise
            connections.force_disconnect(self._engine, request.container, request.network)
            return Empty()
        work = connections.disconnect(self._engine, container, request.network, force=request.force)
        await self._engine.finish(work, "request")
        return Empty()

    async def Prune(self, request: pb.PruneNetworksRequest, context: Context) -> PruneReport:
        removed = await self._engine.remote.prune(request.filters)
        self._engine.events.publish("network", "prune", "", {"reclaimed": "0"})
        return PruneReport(deleted=removed)

    def _describe(self, record: NetworkRecord) -> pb.Network:
        return pb.Network(
            id=record.id,
            name=record.name,
            created=record.created,
            scope="local",
            driver=record.driver,
            enable_ipv4=record.enable_ipv4,
            enable_ipv6=record.enable_ipv6,
            ipam_driver=record.ipam_driver,
            ipam_options=record.ipam_options,
            has_ipam_options=record.ipam_options is not None,
            ipam=[
                pb.IpamConfig(
                    subnet=item.subnet,
                    ip_range=item.ip_range,
                    gateway=item.gateway,
                    auxiliary=item.auxiliary,
                )
                for item in record.ipam
            ],
            internal=record.internal,
            attachable=record.attachable,
            config_only=record.config_only,
            config_from=record.config_from,
            options=record.options,
            labels=record.labels,
            members=[_member(item) for item in self._networks.members(record.id)],
        )


def _member(endpoint: EndpointRecord) -> pb.NetworkMember:
    by_family = {":" in address: address for address in endpoint.prefixed_addresses}
    return pb.NetworkMember(
        container_id=endpoint.container_id,
        container_name=endpoint.container_name,
        endpoint_id=endpoint.id,
        mac_address=endpoint.mac,
        ipv4_address=by_family.get(False, ""),
        ipv6_address=by_family.get(True, ""),
    )


class Volumes(VolumesServicer):
    def __init__(self, engine: Engine) -> None:
        self._volumes = engine.volumes

    async def Create(self, request: pb.CreateVolumeRequest, context: Context) -> pb.Volume:
        volume = await self._volumes.create(
            request.name,
            driver=request.driver,
            options=dict(request.options) if request.has_options else None,
            labels=dict(request.labels) if request.has_labels else None,
        )
        return await self._volumes.describe(volume)

    async def Get(self, request: pb.VolumeRef, context: Context) -> pb.Volume:
        return await self._volumes.describe(await self._volumes.get(request.name))

    async def List(self, request: pb.ListVolumesRequest, context: Context) -> pb.VolumeList:
        found = await self._volumes.list_all(request.filters)
        return pb.VolumeList(volumes=[await self._volumes.describe(item) for item in found])

    async def Remove(self, request: pb.RemoveVolumeRequest, context: Context) -> Empty:
        await self._volumes.remove(request.name, force=request.force)
        return Empty()

    async def Prune(self, request: pb.PruneVolumesRequest, context: Context) -> PruneReport:
        return await self._volumes.prune(request.filters)
