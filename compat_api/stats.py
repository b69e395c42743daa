"""longshored: /containers/{name}/stats: the shim's counters in Docker's form, once or each second.

Clients work out percentages from two samples, so each object has the one before in it as
``precpu_stats``. A stopped container answers zeros, not an error.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from common.errors import InvalidArgument
from common.times import rfc3339_nano
from compat_api.request import Request
from compat_api.routes import Answer, Json, Route
from compat_api.streams import JsonStream
from compat_api.times import ZERO_TIME
from lifecycle._pb import containers_pb2 as pb

INTERVAL = 1.0

BLOCK_IO_TABLES = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
INTERFACE_COUNTERS = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
)
# Of v2's memory.stat; those that this kernel lacks, or calls otherwise, are 0.
MEMORY_KEYS_V2 = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem"),
    *("file_mapped", "file_dirty", "file_writeback", "anon_thp"),
    *("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"),
    *("slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault"),
    *("workingset_refault", "workingset_activate", "workingset_nodereclaim"),
    *("pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed"),
    *("thp_fault_alloc", "thp_collapse_alloc"),
)
UNLIMITED_V2 = 2**64 - 1
NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


async def stats(request: Request) -> Answer:
    streaming = request.flag("stream", default=True)
    one_shot = request.flag("one-shot")
    if streaming and one_shot:
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    sample = await read_sample(request)
    if streaming:
        return await _stream(request, sample)
    if one_shot or not sample.json:
        body = stats_body(sample)
        if one_shot and sample.json:
            # Docker leaves these out of a running container's single sample.
            del body["name"], body["id"]
        return Json(body)
    before = stats_body(sample)
    await asyncio.sleep(INTERVAL)
    return Json(following_body(await read_sample(request), before))


async def _stream(request: Request, sample: pb.Stats) -> Answer:
    # A container that does not run yet, or not any more, is still listed, with zeros.
    body = stats_body(sample)
    async with JsonStream(request, end=b"\n") as stream:
        await stream.begin()
        while True:
            await stream.send(body)
            await asyncio.sleep(INTERVAL)
            body = following_body(await read_sample(request), body)
    return await stream.finish()


async def read_sample(request: Request) -> pb.Stats:
    return await request.engine.containers.GetStats(pb.ContainerRef(ref=request.name))


def following_body(sample: pb.Stats, before: dict[str, Any]) -> dict[str, Any]:
    body = stats_body(sample)
    body["preread"] = before["read"]
    body["precpu_stats"] = before["cpu_stats"]
    return body


def stats_body(sample: pb.Stats) -> dict[str, Any]:
    counters = orjson.loads(sample.json) if sample.json else {}
    cgroup = counters.get("cgroup", {})
    unified = cgroup.get("version") == 2
    body: dict[str, Any] = {
        "name": f"/{sample.name}",
        "id": sample.id,
        "read": rfc3339_nano(counters.get("read", 0)),
        "preread": ZERO_TIME,
        "pids_stats": pids_body(cgroup.get("pids"), unified=unified),
        "blkio_stats": block_io_body(cgroup.get("block_io"), unified=unified),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu_body(cgroup["cpu"], sample) if "cpu" in cgroup else NO_CPU,
        "precpu_stats": NO_CPU,
        "memory_stats": memory_body(cgroup.get("memory"), sample, unified=unified),
    }
    if counters.get("interfaces"):
        body["networks"] = {
            interface["name"]: {name: interface.get(name, 0) for name in INTERFACE_COUNTERS}
            for interface in counters["interfaces"]
        }
    return body


def pids_body(pids: dict[str, Any] | None, *, unified: bool) -> dict[str, Any]:
    if not pids:
        return {}
    if unified and pids.get("limit") is None:
        pids = {**pids, "limit": UNLIMITED_V2}
    return {name: pids[name] for name in ("current", "limit") if pids.get(name)}


def block_io_body(block_io: dict[str, Any] | None, *, unified: bool) -> dict[str, Any]:
    body = dict.fromkeys(BLOCK_IO_TABLES)
    if block_io is None:
        return body
    if unified:
        return body | {BLOCK_IO_TABLES[0]: block_io[BLOCK_IO_TABLES[0]] or None}
    return {name: block_io.get(name, []) for name in BLOCK_IO_TABLES}


def cpu_body(cpu: dict[str, Any], sample: pb.Stats) -> dict[str, Any]:
    usage = {"total_usage": cpu["total"]}
    if cpu.get("per_cpu"):
        usage["percpu_usage"] = cpu["per_cpu"]
    usage["usage_in_kernelmode"] = cpu["system"]
    usage["usage_in_usermode"] = cpu["user"]
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sample.system_cpu,
        "online_cpus": sample.online_cpus,
        "throttling_data": {
            name: cpu[name] for name in ("periods", "throttled_periods", "throttled_time")
        },
    }


def memory_body(
    memory: dict[str, Any] | None, sample: pb.Stats, *, unified: bool
) -> dict[str, Any]:
    if not memory:
        return {}
    counters = memory["stat"]
    if unified:
        counters = {name: counters.get(name, 0) for name in MEMORY_KEYS_V2}
    body = {
        "usage": memory["usage"],
        "max_usage": 0 if unified else memory["max_usage"],
        "stats": counters,
        "failcnt": memory["failcnt"],
        "limit": sample.memory_limit,
    }
    return {name: value for name, value in body.items() if value}


ROUTES = (Route("GET", "/containers/{name}/stats", stats),)
