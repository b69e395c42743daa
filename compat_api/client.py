"""longshored: the way to lifecycle, one gRPC channel over a unix socket.

Every handler gets the one ``Engine`` and calls a stub of it; an AioRpcError that nobody catches
becomes the client's error in app.py. Calls wait while lifecycle is not there, because longshored
starts it again at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from common.paths import Paths
from compat_api.inspections import Inspections
from lifecycle._pb import (
    containers_pb2_grpc,
    images_pb2_grpc,
    networks_pb2_grpc,
    system_pb2_grpc,
)

if TYPE_CHECKING:
    # The generated stubs have typed twins for grpc.aio that exist for type checkers only.
    from lifecycle._pb.containers_pb2_grpc import ContainersAsyncStub, ExecsAsyncStub
    from lifecycle._pb.images_pb2_grpc import ImagesAsyncStub
    from lifecycle._pb.networks_pb2_grpc import NetworksAsyncStub, VolumesAsyncStub
    from lifecycle._pb.system_pb2_grpc import SystemAsyncStub

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", '{"methodConfig": [{"name": [{}], "waitForReady": true}]}'),
]


class Engine:
    """Lifecycle's services, and where its sockets are."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.inspections = Inspections(paths.revisions)
        self.channel = grpc.aio.insecure_channel(
            f"unix:{paths.lifecycle_socket}", options=CHANNEL_OPTIONS
        )
        channel = self.channel
        self.containers: ContainersAsyncStub = containers_pb2_grpc.ContainersStub(channel)
        self.execs: ExecsAsyncStub = containers_pb2_grpc.ExecsStub(channel)
        self.images: ImagesAsyncStub = images_pb2_grpc.ImagesStub(channel)
        self.networks: NetworksAsyncStub = networks_pb2_grpc.NetworksStub(channel)
        self.volumes: VolumesAsyncStub = networks_pb2_grpc.VolumesStub(channel)
        self.system: SystemAsyncStub = system_pb2_grpc.SystemStub(channel)

    async def close(self) -> None:
        await self.channel.close()
