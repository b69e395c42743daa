"""Library: limits in v1 units, as config.json has them, in the units of cgroup v2.

Pure functions. The formulas are runc's (github.com/opencontainers/cgroups, 0.0.5 and later), so
that a container weighs the same under either runtime.
"""

from __future__ import annotations

import math

from runtime.cgroups.errors import CgroupError

MAX_SHARES = 262144
DEFAULT_PERIOD = 100_000  # microseconds, Documentation/admin-guide/cgroup-v2.rst


def cpu_weight(shares: int) -> int:
    """cpu.shares 2..262144, default 1024, as cpu.weight 1..10000, default 100.

    A quadratic in log2(shares) through these three points; the linear map that runc used before
    gave a container with default shares a weight of 39, less than that of any other cgroup.
    """
    if shares <= 2:
        return 1
    if shares >= MAX_SHARES:
        return 10000
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612.0 - 7.0 / 34.0))


def io_weight(blkio_weight: int) -> int:
    """blkio.weight 10..1000 as io.weight 1..10000."""
    return 1 + (blkio_weight - 10) * 9999 // 990


def cpu_max(quota: int | None, period: int | None) -> str:
    limit = str(quota) if quota is not None and quota > 0 else "max"
    return f"{limit} {period or DEFAULT_PERIOD}"


def swap_max(swap: int | None, limit: int | None) -> str | None:
    """memory.swap.max for v1's "memory plus swap" value; None for "leave it alone"."""
    if swap is None or swap == 0:
        # Lifting the memory limit lifted the swap limit too under v1's rules.
        return "max" if limit == -1 else None
    if swap == -1:
        return "max"
    if limit == -1:
        return str(swap)
    if not limit:
        raise CgroupError("unable to set swap limit without memory limit")
    if limit < 0:
        raise CgroupError(f"invalid memory value: {limit}")
    if swap < limit:
        raise CgroupError("memory+swap limit should be >= memory limit")
    return str(swap - limit)


def memory_value(value: int) -> str:
    return "max" if value == -1 else str(value)


def pids_max(limit: int) -> str:
    """0 becomes 1, which behaves alike and which systemd can express too (as runc)."""
    if limit < 0:
        return "max"
    return str(max(limit, 1))
