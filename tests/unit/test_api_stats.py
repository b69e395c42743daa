"""Counters of a container as /containers/{name}/stats gives them, on cgroup v1 and v2."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from compat_api.stats import stats_body
from lifecycle._pb import containers_pb2 as pb
from runtime.cgroups.stats import (
    BlockIOEntry,
    BlockIOStats,
    CPUStats,
    MemoryStats,
    PidsStats,
    Stats,
)

READ = BlockIOEntry(8, 0, "read", 4096)
V1 = Stats(
    cpu=CPUStats(total=3, user=1, system=2, per_cpu=(1, 2)),
    memory=MemoryStats(usage=5, max_usage=9, stat={"cache": 1, "total_rss": 2}),
    pids=PidsStats(current=1),
    block_io=BlockIOStats(io_service_bytes_recursive=(READ,), io_serviced_recursive=(READ,)),
)
V2 = dataclasses.replace(
    V1,
    version=2,
    cpu=CPUStats(total=3, user=1, system=2),
    memory=MemoryStats(usage=5, max_usage=9, failcnt=4, stat={"anon": 3, "zswap": 1}),
)


def body(stats: Stats) -> dict[str, Any]:
    sample = pb.Stats(id="i", name="n", memory_limit=100, json=orjson.dumps({"cgroup": stats}))
    return stats_body(sample)


def test_v1() -> None:
    found = body(V1)
    assert found["memory_stats"] == {
        "usage": 5, "max_usage": 9, "limit": 100, "stats": {"cache": 1, "total_rss": 2},
    }  # fmt: skip
    assert found["pids_stats"] == {"current": 1}
    assert found["cpu_stats"]["cpu_usage"]["percpu_usage"] == [1, 2]
    assert len(found["blkio_stats"]["io_serviced_recursive"]) == 1
    assert found["blkio_stats"]["io_time_recursive"] == []


def test_v2() -> None:
    found = body(V2)
    memory = found["memory_stats"]
    assert (memory["usage"], memory["limit"], memory["failcnt"]) == (5, 100, 4)
    assert "max_usage" not in memory
    assert memory["stats"]["anon"] == 3
    assert memory["stats"]["file"] == 0
    assert "zswap" not in memory["stats"]
    assert len(memory["stats"]) == 31
    assert found["pids_stats"] == {"current": 1, "limit": 18446744073709551615}
    assert "percpu_usage" not in found["cpu_stats"]["cpu_usage"]
    tables = found["blkio_stats"]
    assert tables.pop("io_service_bytes_recursive") == [
        {"major": 8, "minor": 0, "op": "read", "value": 4096}
    ]
    assert set(tables.values()) == {None}


def test_v2_without_io() -> None:
    quiet = body(dataclasses.replace(V2, block_io=BlockIOStats()))
    assert set(quiet["blkio_stats"].values()) == {None}
