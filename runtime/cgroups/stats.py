"""Library: a cgroup's counters, in the shape that Docker's stats need, the same for v1 and v2.

The shim reads them on request and sends them as JSON (orjson takes dataclasses). Times are in
nanoseconds, sizes in bytes, ``None`` is "no limit".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.cgroups.files import read_or_none


@dataclass(frozen=True, slots=True)
class CPUStats:
    total: int = 0
    user: int = 0
    system: int = 0
    per_cpu: tuple[int, ...] = ()  # cgroup v1 only
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStats:
    usage: int = 0
    max_usage: int = 0
    limit: int | None = None
    failcnt: int = 0
    stat: Mapping[str, int] = field(default_factory=dict)  # memory.stat as it is


@dataclass(frozen=True, slots=True)
class PidsStats:
    current: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class BlockIOEntry:
    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True)
class BlockIOStats:
    io_service_bytes_recursive: tuple[BlockIOEntry, ...] = ()
    io_serviced_recursive: tuple[BlockIOEntry, ...] = ()
    io_queue_recursive: tuple[BlockIOEntry, ...] = ()
    io_service_time_recursive: tuple[BlockIOEntry, ...] = ()
    io_wait_time_recursive: tuple[BlockIOEntry, ...] = ()
    io_merged_recursive: tuple[BlockIOEntry, ...] = ()
    io_time_recursive: tuple[BlockIOEntry, ...] = ()
    sectors_recursive: tuple[BlockIOEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    version: int = 1  # of the cgroups, which have different names in memory.stat
    cpu: CPUStats = field(default_factory=CPUStats)
    memory: MemoryStats = field(default_factory=MemoryStats)
    pids: PidsStats = field(default_factory=PidsStats)
    block_io: BlockIOStats = field(default_factory=BlockIOStats)


def parse_blkio(text: str) -> tuple[BlockIOEntry, ...]:
    """A v1 blkio file: ``8:0 Read 4096`` lines, ``8:0 6792`` in the ones without operations."""
    entries = []
    for line in text.splitlines():
        device, *middle, value = line.split()
        major, colon, minor = device.partition(":")
        if colon:  # the last line is "Total n"
            op = middle[0] if middle else ""
            entries.append(BlockIOEntry(int(major), int(minor), op, int(value)))
    return tuple(entries)


def parse_io_stat(text: str) -> BlockIOStats:
    """v2's io.stat, ``8:0 rbytes=90112 wbytes=0 rios=11 ...``, as v1's two tables."""
    sizes: list[BlockIOEntry] = []
    counts: list[BlockIOEntry] = []
    tables = {
        "rbytes": (sizes, "read"),
        "wbytes": (sizes, "write"),
        "rios": (counts, "read"),
        "wios": (counts, "write"),
    }
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in tables:
                table, op = tables[key]
                table.append(BlockIOEntry(int(major), int(minor), op, int(value)))
    return BlockIOStats(
        io_service_bytes_recursive=tuple(sizes), io_serviced_recursive=tuple(counts)
    )


def read_blkio(path: str) -> tuple[BlockIOEntry, ...]:
    text = read_or_none(path)
    return parse_blkio(text) if text else ()
