"""Library: linux.resources written to cgroup v1 files.

Called by V1Manager at creation and for each update. Values of 0 mean "not said" where runc takes
them so (config.json of many engines has them); the order of writes is what the kernel's checks
demand.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from runtime.cgroups import files
from runtime.cgroups.errors import CgroupError, ControllerMissing
from runtime.spec import CPU, BlockIO, Hugepage, Memory, Network, Pids, Rdma, Resources

Paths = Mapping[str, str]


def apply(paths: Paths, resources: Resources) -> None:
    if resources.unified:
        raise CgroupError("invalid configuration: cannot use unified resources on cgroup v1")
    if resources.memory is not None:
        _memory(paths, resources.memory)
    if resources.cpu is not None:
        _cpu(paths, resources.cpu)
        _cpuset(paths, resources.cpu)
    if resources.pids is not None:
        _pids(paths, resources.pids)
    if resources.block_io is not None:
        _block_io(paths, resources.block_io)
    for page in resources.hugepage_limits:
        _hugepage(paths, page)
    if resources.network is not None:
        _network(paths, resources.network)
    for device, limits in resources.rdma.items():
        _rdma(paths, device, limits)


def _set(paths: Paths, controller: str, name: str, value: object, what: str) -> None:
    directory = paths.get(controller)
    if directory is None:
        raise ControllerMissing(controller, what)
    try:
        files.write(f"{directory}/{name}", str(value))
    except FileNotFoundError as error:
        if not os.path.isdir(directory):
            raise
        raise CgroupError(f"cannot set {what}: this kernel has no {name}") from error


def _memory(paths: Paths, memory: Memory) -> None:
    limit, swap = memory.limit or 0, memory.swap or 0
    directory = paths.get("memory", "")
    if limit == -1 and swap == 0 and os.path.exists(directory + "/memory.memsw.limit_in_bytes"):
        swap = -1  # lifting the limit on memory alone fails while a lower one on both stands
    # The kernel refuses limit > memsw at any moment, so the one that grows goes first.
    swap_first = False
    if limit and swap:
        current = files.read_limit(directory + "/memory.limit_in_bytes") if directory else None
        swap_first = swap == -1 or (current is not None and current < swap)
    if swap and swap_first:
        _swap_limit(paths, swap)
    if limit:
        _memory_limit(paths, limit)
    if swap and not swap_first:
        _swap_limit(paths, swap)
    if memory.reservation:
        reservation = memory.reservation
        _set(paths, "memory", "memory.soft_limit_in_bytes", reservation, "memory reservation")
    if memory.disable_oom_killer:
        _set(paths, "memory", "memory.oom_control", 1, "disableOOMKiller")
    if memory.swappiness is not None and memory.swappiness != -1:
        if not 0 <= memory.swappiness <= 100:
            raise CgroupError(
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)"
            )
        _set(paths, "memory", "memory.swappiness", memory.swappiness, "memory swappiness")


def _memory_limit(paths: Paths, limit: int) -> None:
    try:
        _set(paths, "memory", "memory.limit_in_bytes", limit, "memory limit")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        usage = files.read_number(paths["memory"] + "/memory.usage_in_bytes")
        peak = files.read_number(paths["memory"] + "/memory.max_usage_in_bytes")
        raise CgroupError(
            f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})"
        ) from error


def _swap_limit(paths: Paths, swap: int) -> None:
    _set(paths, "memory", "memory.memsw.limit_in_bytes", swap, "memory swap limit")


def _cpu(paths: Paths, cpu: CPU) -> None:
    if cpu.shares:
        _shares(paths, cpu.shares)
    # Period, burst and quota are checked against each other and against the parent, with the old
    # value of those not yet written: what is refused at first gets its second chance after the
    # quota.
    late: list[tuple[str, int, str]] = []
    first = (
        ("cpu.cfs_period_us", cpu.period or None, "cpu period"),
        ("cpu.cfs_burst_us", cpu.burst, "cpu burst"),
    )
    for name, value, what in first:
        if value is not None and not _try(paths, name, value, what, again=bool(cpu.quota)):
            late.append((name, value, what))
    if cpu.quota:
        _set(paths, "cpu", "cpu.cfs_quota_us", cpu.quota, "cpu quota")
    for name, value, what in late:
        _set(paths, "cpu", name, value, what)
    if cpu.idle is not None:
        _set(paths, "cpu", "cpu.idle", cpu.idle, "cpu idle")
    _realtime(paths, cpu)


def _try(paths: Paths, name: str, value: int, what: str, *, again: bool) -> bool:
    try:
        _set(paths, "cpu", name, value, what)
        return True
    except OSError as error:
        if error.errno != errno.EINVAL or not again:
            raise
        return False


def _shares(paths: Paths, shares: int) -> None:
    _set(paths, "cpu", "cpu.shares", shares, "cpu shares")
    # The kernel clamps in silence.
    effective = files.read_number(paths["cpu"] + "/cpu.shares")
    if shares > effective:
        raise CgroupError(f"the maximum allowed cpu-shares is {effective}")
    if shares < effective:
        raise CgroupError(f"the minimum allowed cpu-shares is {effective}")


def _realtime(paths: Paths, cpu: CPU) -> None:
    period, runtime = cpu.realtime_period, cpu.realtime_runtime
    what = "realtime cpu period"
    pending = bool(period) and not _try(
        paths, "cpu.rt_period_us", period or 0, what, again=bool(runtime)
    )
    if runtime:
        _set(paths, "cpu", "cpu.rt_runtime_us", runtime, "realtime cpu runtime")
    if pending:
        _set(paths, "cpu", "cpu.rt_period_us", period, what)


def _cpuset(paths: Paths, cpu: CPU) -> None:
    if cpu.cpus:
        _set(paths, "cpuset", "cpuset.cpus", cpu.cpus, "cpuset cpus")
    if cpu.mems:
        _set(paths, "cpuset", "cpuset.mems", cpu.mems, "cpuset mems")


def _pids(paths: Paths, pids: Pids) -> None:
    if pids.limit is not None:
        value = "max" if pids.limit < 0 else max(pids.limit, 1)
        _set(paths, "pids", "pids.max", value, "pids limit")


def _block_io(paths: Paths, block_io: BlockIO) -> None:
    def set_(name: str, value: object, what: str) -> None:
        _set(paths, "blkio", name, value, what)

    weight = "blkio.weight"
    if not os.path.exists(f"{paths.get('blkio')}/{weight}"):
        weight = "blkio.bfq.weight"  # CFQ left the kernel in 5.0
    if block_io.weight:
        set_(weight, block_io.weight, "blkio weight")
    if block_io.leaf_weight:
        set_("blkio.leaf_weight", block_io.leaf_weight, "blkio leaf weight")
    for each in block_io.weight_device:
        if each.weight:
            set_(weight + "_device", f"{each.major}:{each.minor} {each.weight}", "device weight")
        if each.leaf_weight:
            value = f"{each.major}:{each.minor} {each.leaf_weight}"
            set_("blkio.leaf_weight_device", value, "device leaf weight")
    for name, limits in (
        ("read_bps", block_io.throttle_read_bps_device),
        ("write_bps", block_io.throttle_write_bps_device),
        ("read_iops", block_io.throttle_read_iops_device),
        ("write_iops", block_io.throttle_write_iops_device),
    ):
        for limit in limits:
            value = f"{limit.major}:{limit.minor} {limit.rate}"
            set_(f"blkio.throttle.{name}_device", value, f"blkio {name} limit")


def _hugepage(paths: Paths, page: Hugepage) -> None:
    name, what = f"hugetlb.{page.page_size}", f"hugetlb limit for {page.page_size} pages"
    _set(paths, "hugetlb", name + ".limit_in_bytes", page.limit, what)
    reserved = f"{paths['hugetlb']}/{name}.rsvd.limit_in_bytes"
    if os.path.exists(reserved):  # Linux 5.7 and later
        files.write(reserved, str(page.limit))


def _network(paths: Paths, network: Network) -> None:
    if network.class_id:
        _set(paths, "net_cls", "net_cls.classid", network.class_id, "network class id")
    for each in network.priorities:
        value = f"{each.name} {each.priority}"
        _set(paths, "net_prio", "net_prio.ifpriomap", value, "network priority")


def _rdma(paths: Paths, device: str, limits: Rdma) -> None:
    _set(paths, "rdma", "rdma.max", rdma_line(device, limits), "rdma limits")


def rdma_line(device: str, limits: Rdma) -> str:
    handles = "max" if limits.hca_handles is None else limits.hca_handles
    objects = "max" if limits.hca_objects is None else limits.hca_objects
    return f"{device} hca_handle={handles} hca_object={objects}"
