"""Library: counters of cgroup v1; zeros for a controller that is not mounted.

The shim calls it through V1Manager.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from runtime.cgroups import files
from runtime.cgroups.stats import BlockIOStats, CPUStats, MemoryStats, PidsStats, Stats, read_blkio

TICK_NANOSECONDS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def read(paths: Mapping[str, str]) -> Stats:
    return Stats(
        cpu=_cpu(paths.get("cpuacct"), paths.get("cpu")),
        memory=_memory(paths["memory"]) if "memory" in paths else MemoryStats(),
        pids=_pids(paths["pids"]) if "pids" in paths else PidsStats(),
        block_io=_block_io(paths["blkio"]) if "blkio" in paths else BlockIOStats(),
    )


def _cpu(cpuacct: str | None, cpu: str | None) -> CPUStats:
    throttling = files.read_keyed(cpu + "/cpu.stat") if cpu else {}
    shares = files.read_keyed(cpuacct + "/cpuacct.stat") if cpuacct else {}
    per_cpu = files.read_or_none(cpuacct + "/cpuacct.usage_percpu") if cpuacct else None
    return CPUStats(
        total=files.read_number(cpuacct + "/cpuacct.usage") if cpuacct else 0,
        user=shares.get("user", 0) * TICK_NANOSECONDS,
        system=shares.get("system", 0) * TICK_NANOSECONDS,
        per_cpu=tuple(map(int, (per_cpu or "").split())),
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_time=throttling.get("throttled_time", 0),
    )


def _memory(directory: str) -> MemoryStats:
    return MemoryStats(
        usage=files.read_number(directory + "/memory.usage_in_bytes"),
        max_usage=files.read_number(directory + "/memory.max_usage_in_bytes"),
        limit=files.read_limit(directory + "/memory.limit_in_bytes"),
        failcnt=files.read_number(directory + "/memory.failcnt"),
        stat=files.read_keyed(directory + "/memory.stat"),
    )


def _pids(directory: str) -> PidsStats:
    return PidsStats(
        current=files.read_number(directory + "/pids.current"),
        limit=files.read_limit(directory + "/pids.max"),
    )


def _block_io(directory: str) -> BlockIOStats:
    """BFQ's own counters where it accounts for something, else the throttling layer's."""
    for prefix in ("/blkio.bfq.", "/blkio.throttle."):
        sizes = read_blkio(directory + prefix + "io_service_bytes_recursive")
        if sizes:
            break
    return BlockIOStats(
        io_service_bytes_recursive=sizes,
        io_serviced_recursive=read_blkio(directory + prefix + "io_serviced_recursive"),
        # Only kernels with CONFIG_BFQ_CGROUP_DEBUG have these.
        io_queue_recursive=read_blkio(directory + "/blkio.bfq.io_queued_recursive"),
        io_service_time_recursive=read_blkio(directory + "/blkio.bfq.io_service_time_recursive"),
        io_wait_time_recursive=read_blkio(directory + "/blkio.bfq.io_wait_time_recursive"),
        io_merged_recursive=read_blkio(directory + "/blkio.bfq.io_merged_recursive"),
        io_time_recursive=read_blkio(directory + "/blkio.bfq.time_recursive"),
        sectors_recursive=read_blkio(directory + "/blkio.bfq.sectors_recursive"),
    )
