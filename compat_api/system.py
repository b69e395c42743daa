"""longshored: /version, /info and /system/df."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

from common.errors import InvalidArgument
from common.times import rfc3339_nano
from compat_api import container_json, host, image_json, release, volumes
from compat_api.request import Request
from compat_api.routes import Answer, Json, Route
from lifecycle._pb import containers_pb2, images_pb2, networks_pb2, types_pb2
from lifecycle._pb import system_pb2 as pb

INDEX_SERVER = "https://index.docker.io/v1/"
LOOPBACK_CIDRS = ("::1/128", "127.0.0.0/8")
LOG_DRIVERS = ("fluentd", "gelf", "journald", "json-file", "local", "syslog")
USAGE_TYPES = frozenset(("container", "image", "volume", "build-cache"))


async def version(request: Request) -> Answer:
    return Json(version_body())


def version_body() -> dict[str, Any]:
    changed = Path(release.__file__).stat().st_mtime_ns
    facts = {
        "ApiVersion": release.NEWEST_TEXT,
        "MinAPIVersion": release.OLDEST_TEXT,
        "GitCommit": "",
        "GoVersion": f"python{platform.python_version()}",
        "Os": "linux",
        "Arch": host.go_architecture(),
        "KernelVersion": platform.release(),
        "BuildTime": rfc3339_nano(changed // 1_000_000_000 * 1_000_000_000),
    }
    engine = {
        "Name": "Engine",
        "Version": release.VERSION,
        "Details": dict(sorted({**facts, "Experimental": "false"}.items())),
    }
    return {
        "Platform": {"Name": "Longshore"},
        "Components": [engine],
        "Version": release.VERSION,
        **facts,
    }


async def info(request: Request) -> Answer:
    return Json(info_body(await request.engine.system.GetInfo(types_pb2.Empty())))


def info_body(info: pb.Info) -> dict[str, Any]:
    return {
        **_engine_facts(info),
        **_kernel_facts(info),
        **_process_facts(info),
        **_host_facts(info),
        **_configuration(info),
    }


def _engine_facts(info: pb.Info) -> dict[str, Any]:
    counts = (info.containers_running, info.containers_paused, info.containers_stopped)
    return {
        "ID": info.id,
        "Containers": sum(counts),
        "ContainersRunning": counts[0],
        "ContainersPaused": counts[1],
        "ContainersStopped": counts[2],
        "Images": info.images,
        "Driver": info.storage_driver,
        "DriverStatus": [[key, value] for key, value in sorted(info.storage_status.items())],
        "Plugins": {
            "Volume": list(info.volume_drivers),
            "Network": list(info.network_drivers),
            "Authorization": None,
            "Log": list(LOG_DRIVERS),
        },
    }


def _kernel_facts(info: pb.Info) -> dict[str, Any]:
    return {
        "MemoryLimit": info.memory_limit,
        "SwapLimit": info.swap_limit,
        **({"KernelMemoryTCP": True} if info.kernel_memory_tcp else {}),
        "CpuCfsPeriod": info.cpu_cfs_period,
        "CpuCfsQuota": info.cpu_cfs_quota,
        "CPUShares": info.cpu_shares,
        "CPUSet": info.cpuset,
        "PidsLimit": info.pids_limit,
        "IPv4Forwarding": info.ipv4_forwarding,
        "OomKillDisable": info.oom_kill_disable,
        "CgroupDriver": info.cgroup_driver,
        "CgroupVersion": info.cgroup_version,
        **({"KernelMemoryTCP": True} if host.limits_kernel_memory(tcp=True) else {}),
    }


def _process_facts(info: pb.Info) -> dict[str, Any]:
    return {
        "Debug": logging.getLogger("longshored").isEnabledFor(logging.DEBUG),
        "NFd": host.open_files(),
        "NGoroutines": len(asyncio.all_tasks()),
        "SystemTime": rfc3339_nano(time.time_ns()),
        "LoggingDriver": info.default_log_driver,
        "NEventsListener": info.events_listeners,
    }


def _host_facts(info: pb.Info) -> dict[str, Any]:
    distribution = host.os_release()
    return {
        "KernelVersion": platform.release(),
        "OperatingSystem": distribution.get("PRETTY_NAME", "Linux"),
        "OSVersion": distribution.get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": host.cpu_count(),
        "MemTotal": host.memory_total(),
        "GenericResources": None,
        "DockerRootDir": info.data_root,
        "HttpProxy": host.proxy("HTTP_PROXY"),
        "HttpsProxy": host.proxy("HTTPS_PROXY"),
        "NoProxy": host.proxy("NO_PROXY"),
        "Name": os.uname().nodename,
    }


def _configuration(info: pb.Info) -> dict[str, Any]:
    body: dict[str, Any] = {
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": registry_config(info),
        "Labels": list(info.labels),
        "ExperimentalBuild": False,
        "ServerVersion": release.VERSION,
        "Runtimes": {runtime.name: runtime_body(runtime) for runtime in info.runtimes},
        "DefaultRuntime": info.default_runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        # Containers always go on when the engine's processes end.
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": info.init_binary,
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": list(info.security_options),
        "FirewallBackend": {"Driver": info.firewall_backend},
        "CDISpecDirs": [],
        "Warnings": list(info.warnings) or None,
    }
    if info.default_address_pools:
        body["DefaultAddressPools"] = [
            {"Base": pool.base, "Size": pool.size} for pool in info.default_address_pools
        ]
    return body


def runtime_body(runtime: pb.Runtime) -> dict[str, Any]:
    body: dict[str, Any] = {"path": runtime.path}
    if runtime.arguments:
        body["runtimeArgs"] = list(runtime.arguments)
    return body


def registry_config(info: pb.Info) -> dict[str, Any]:
    mirrors = list(info.registry_mirrors)
    cidrs = [item for item in info.insecure_registries if "/" in item]
    hosts = [item for item in info.insecure_registries if "/" not in item]
    hub = {"Mirrors": mirrors, "Name": "docker.io", "Official": True, "Secure": True}
    indexes = {
        name: {"Mirrors": [], "Name": name, "Official": False, "Secure": False} for name in hosts
    }
    return {
        "IndexConfigs": {"docker.io": hub, **indexes},
        "InsecureRegistryCIDRs": [
            *LOOPBACK_CIDRS,
            *(cidr for cidr in cidrs if cidr not in LOOPBACK_CIDRS),
        ],
        "Mirrors": mirrors or None,
    }


async def disk_usage(request: Request) -> Answer:
    types = frozenset(request.texts("type")) or USAGE_TYPES
    for unknown in sorted(types - USAGE_TYPES):
        raise InvalidArgument(f"unknown object type: {unknown}")
    body: dict[str, Any] = {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": None,
        "BuildCache": [] if "build-cache" in types else None,
    }
    parts = {"container": _containers, "image": _images, "volume": _volumes}
    wanted = [part(request) for name, part in parts.items() if name in types]
    for answer in await asyncio.gather(*wanted):
        body.update(answer)
    return Json(body)


async def _containers(request: Request) -> dict[str, Any]:
    found = await request.engine.containers.List(
        containers_pb2.ListContainersRequest(all=True, size=True)
    )
    return {"Containers": container_json.list_body(found.containers)}


async def _images(request: Request) -> dict[str, Any]:
    found, usage = await asyncio.gather(
        request.engine.images.List(images_pb2.ListImagesRequest(shared_size=True)),
        request.engine.system.GetDiskUsage(pb.DiskUsageRequest(images=True)),
    )
    summaries = [image_json.summary(image) for image in found.images]
    for summary in summaries:
        # Only the list of images has [] for none.
        summary["RepoDigests"] = summary["RepoDigests"] or None
        summary["RepoTags"] = summary["RepoTags"] or None
    return {"LayersSize": usage.layers_size, "Images": summaries}


async def _volumes(request: Request) -> dict[str, Any]:
    found, usage = await asyncio.gather(
        request.engine.volumes.List(networks_pb2.ListVolumesRequest()),
        request.engine.system.GetDiskUsage(pb.DiskUsageRequest(volumes=True)),
    )
    used = {item.name: item for item in usage.volumes}
    bodies = []
    for volume in found.volumes:
        item = used.get(volume.name)
        size, count = (item.size, item.ref_count) if item else (volume.size, volume.ref_count)
        bodies.append({**volumes.render(volume), "UsageData": {"RefCount": count, "Size": size}})
    return {"Volumes": bodies}


ROUTES = (
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/system/df", disk_usage),
)
