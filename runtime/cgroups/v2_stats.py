"""Library: counters of cgroup v2; zeros for a controller that is not enabled.

The shim calls it through V2Manager.
"""

from __future__ import annotations

from runtime.cgroups import files
from runtime.cgroups.stats import CPUStats, MemoryStats, PidsStats, Stats, parse_io_stat


def read(directory: str) -> Stats:
    cpu = files.read_keyed(directory + "/cpu.stat")
    return Stats(
        version=2,
        cpu=CPUStats(
            total=cpu.get("usage_usec", 0) * 1000,
            user=cpu.get("user_usec", 0) * 1000,
            system=cpu.get("system_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_time=cpu.get("throttled_usec", 0) * 1000,
        ),
        memory=MemoryStats(
            usage=files.read_number(directory + "/memory.current"),
            max_usage=files.read_number(directory + "/memory.peak"),  # Linux 5.19 and later
            limit=files.read_limit(directory + "/memory.max"),
            failcnt=files.read_keyed(directory + "/memory.events").get("oom", 0),
            stat=files.read_keyed(directory + "/memory.stat"),
        ),
        pids=PidsStats(
            current=files.read_number(directory + "/pids.current"),
            limit=files.read_limit(directory + "/pids.max"),
        ),
        block_io=parse_io_stat(files.read_or_none(directory + "/io.stat") or ""),
    )
