"""Library of lifecycle: the System service of system.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from images.snapshots import OVERLAY
from lifecycle import status, view
from lifecycle._pb import system_pb2 as pb
from lifecycle._pb.system_pb2_grpc import SystemServicer
from lifecycle._pb.types_pb2 import Empty
from lifecycle.engine import Engine
from lifecycle.host import Host
from lifecycle.runtimes import BUILT_IN, BUILT_IN_PATH
from lifecycle.services.images import auth_config

Context = grpc.aio.ServicerContext[Any, Any]


class System(SystemServicer):
    def __init__(self, engine: Engine, host: Host) -> None:
        self._engine = engine
        self._host = host

    async def GetInfo(self, request: Empty, context: Context) -> pb.Info:
        engine, host, options = self._engine, self._host, self._engine.options
        states = [container.status for container in engine.containers]
        running = sum(state in (status.RUNNING, status.RESTARTING) for state in states)
        paused = states.count(status.PAUSED)
        return pb.Info(
            id=engine.engine_id,
            containers_running=running,
            containers_paused=paused,
            containers_stopped=len(states) - running - paused,
            images=len(engine.images.find()),
            storage_driver=engine.images.details.storage_driver,
            storage_status=_storage_status(engine.images.details.storage_driver),
            data_root=str(engine.paths.data_root),
            cgroup_version=str(host.cgroup_version),
            cgroup_driver="cgroupfs",
            memory_limit=host.memory_limit,
            swap_limit=host.swap_limit,
            cpu_cfs_period=host.cpu_quota,
            cpu_cfs_quota=host.cpu_quota,
            cpu_shares=host.cpu_shares,
            cpuset=host.cpuset,
            pids_limit=host.pids_limit,
            kernel_memory_tcp=host.kernel_memory_tcp,
            oom_kill_disable=host.oom_kill_disable,
            ipv4_forwarding=_forwarding(),
            security_options=self._security_options(),
            runtimes=self._runtimes(),
            default_runtime=options.default_runtime or BUILT_IN,
            init_binary=options.init_path or "docker-init",
            firewall_backend="nftables" if options.iptables else "none",
            warnings=engine.warnings,
            labels=options.labels,
            registry_mirrors=options.registry_mirrors,
            insecure_registries=options.insecure_registries,
            default_log_driver=options.log_driver,
            default_address_pools=[
                pb.AddressPool(base=pool.base, size=pool.size)
                for pool in options.default_address_pools
            ],
            events_listeners=engine.events.listeners,
            volume_drivers=engine.volumes.drivers(),
            network_drivers=engine.networks.drivers(),
        )

    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Context
    ) -> AsyncIterator[pb.Event]:
        async for event in self._engine.events.subscribe(request):
            yield event

    async def GetDiskUsage(self, request: pb.DiskUsageRequest, context: Context) -> pb.DiskUsage:
        engine = self._engine
        everything = not (request.images or request.containers or request.volumes)
        usage = pb.DiskUsage()
        if everything or request.images:
            usage.layers_size = engine.images.disk_usage().layers_size
        if everything or request.containers:
            sizes = [view.layer_size(engine, container) for container in engine.containers]
            for container, size in zip(
                engine.containers, await asyncio.gather(*sizes), strict=False
            ):
                usage.containers_rw[container.id] = size
        if everything or request.volumes:
            for volume in await engine.volumes.list_all(()):
                described = await engine.volumes.describe(volume, usage=True)
                usage.volumes.add(
                    name=volume.name, size=described.size, ref_count=described.ref_count
                )
        return usage

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginReply:
        token = await self._engine.images.exchange.login(auth_config(request.auth))
        return pb.LoginReply(status="Login Succeeded", identity_token=token)

    def _security_options(self) -> list[str]:
        options = []
        if self._host.apparmor:
            options.append("name=apparmor")
        if self._host.seccomp:
            profile = self._engine.options.seccomp_profile or "builtin"
            options.append(f"name=seccomp,profile={profile}")
        if self._host.cgroup_version == 2:
            options.append("name=cgroupns")
        if self._engine.remap is not None:
            options.append("name=userns")
        return options

    def _runtimes(self) -> list[pb.Runtime]:
        return [
            pb.Runtime(name=BUILT_IN, path=BUILT_IN_PATH),
            *(
                pb.Runtime(name=item.name, path=item.path, arguments=item.arguments)
                for item in self._engine.options.runtimes
            ),
        ]


def _storage_status(driver: str) -> dict[str, str]:
    if driver != OVERLAY:
        return {}
    return {"Supports d_type": "true", "Native Overlay Diff": "true"}


def _forwarding() -> bool:
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        return file.read().strip() == "1"
