"""Library: linux.resources written to cgroup v2 files.

Called by V2Manager at creation and for each update. config.json speaks v1's language, convert.py
translates. Of v1's knobs without a counterpart, swappiness, disableOOMKiller and kernel memory are
ignored, as by other runtimes; a network class or a real-time budget is an error.
"""

from __future__ import annotations

import errno
import os

from runtime.cgroups import convert, files
from runtime.cgroups.errors import CgroupError, ControllerMissing
from runtime.cgroups.v1_limits import rdma_line
from runtime.spec import CPU, BlockIO, Hugepage, Memory, Resources


def apply(directory: str, resources: Resources) -> None:
    if resources.pids is not None and resources.pids.limit is not None:
        _set(directory, "pids.max", convert.pids_max(resources.pids.limit), "pids limit")
    if resources.memory is not None:
        _memory(directory, resources.memory)
    if resources.block_io is not None:
        _block_io(directory, resources.block_io)
    if resources.cpu is not None:
        _cpu(directory, resources.cpu)
    for page in resources.hugepage_limits:
        _hugepage(directory, page)
    if resources.network is not None and (
        resources.network.class_id or resources.network.priorities
    ):
        raise ControllerMissing("net_cls", "network class or priority")
    for device, limits in resources.rdma.items():
        _set(directory, "rdma.max", rdma_line(device, limits), "rdma limits")
    for name, value in resources.unified.items():
        _unified(directory, name, value)


def _set(directory: str, name: str, value: object, what: str) -> None:
    try:
        files.write(f"{directory}/{name}", str(value))
    except FileNotFoundError as error:
        controller = name.partition(".")[0]
        if not os.path.isdir(directory):
            raise
        if controller not in files.read(directory + "/cgroup.controllers").split():
            raise ControllerMissing(controller, what) from error
        raise CgroupError(f"cannot set {what}: this kernel has no {name}") from error


def _memory(directory: str, memory: Memory) -> None:
    if memory.check_before_update:
        check_usage(files.read_number(directory + "/memory.current"), memory)
    swap = convert.swap_max(memory.swap, memory.limit)
    if swap is not None:
        try:
            _set(directory, "memory.swap.max", swap, "memory swap limit")
        except CgroupError:
            # No swap accounting: then there is nothing to forbid, and nothing to permit.
            if swap not in ("max", "0"):
                raise
    if memory.limit:
        _set(directory, "memory.max", convert.memory_value(memory.limit), "memory limit")
    if memory.reservation:
        value = convert.memory_value(memory.reservation)
        _set(directory, "memory.low", value, "memory reservation")


def check_usage(usage: int, memory: Memory) -> None:
    """The kernel accepts a limit below the usage and then kills; this refuses it instead."""
    if memory.swap is not None and 0 < memory.swap <= usage:
        raise CgroupError(f"rejecting memory+swap limit {memory.swap} <= usage {usage}")
    if memory.limit is not None and 0 < memory.limit <= usage:
        raise CgroupError(f"rejecting memory limit {memory.limit} <= usage {usage}")


def _cpu(directory: str, cpu: CPU) -> None:
    if cpu.realtime_period or cpu.realtime_runtime:
        raise CgroupError("cannot set a realtime cpu budget: cgroup v2 has none")
    if cpu.idle is not None:
        _set(directory, "cpu.idle", cpu.idle, "cpu idle")
    if cpu.shares and not cpu.idle:
        _set(directory, "cpu.weight", convert.cpu_weight(cpu.shares), "cpu shares")
    burst_pending = cpu.burst is not None
    if cpu.burst is not None:
        try:
            _set(directory, "cpu.max.burst", cpu.burst, "cpu burst")
            burst_pending = False
        except OSError as error:
            # Refused while the old, smaller quota stands.
            if error.errno != errno.EINVAL or not cpu.quota:
                raise
    if cpu.quota or cpu.period:
        quota = cpu.quota
        if quota is None and cpu.period:
            quota = _current_quota(directory)
        _set(directory, "cpu.max", convert.cpu_max(quota, cpu.period), "cpu quota")
    if burst_pending:
        _set(directory, "cpu.max.burst", cpu.burst, "cpu burst")
    if cpu.cpus:
        _set(directory, "cpuset.cpus", cpu.cpus, "cpuset cpus")
    if cpu.mems:
        _set(directory, "cpuset.mems", cpu.mems, "cpuset mems")


def _current_quota(directory: str) -> int | None:
    """An update of the period alone keeps the quota; v2 has both in one file."""
    quota = (files.read_or_none(directory + "/cpu.max") or "max").split()[0]
    return None if quota == "max" else int(quota)


def _block_io(directory: str, block_io: BlockIO) -> None:
    bfq = os.path.exists(directory + "/io.bfq.weight")
    if block_io.weight:
        if bfq:
            _set(directory, "io.bfq.weight", block_io.weight, "blkio weight")
        else:
            _set(directory, "io.weight", convert.io_weight(block_io.weight), "blkio weight")
    for each in block_io.weight_device:
        if each.weight:
            name = "io.bfq.weight" if bfq else "io.weight"
            weight = each.weight if bfq else convert.io_weight(each.weight)
            _set(directory, name, f"{each.major}:{each.minor} {weight}", "device weight")
    for key, limits in (
        ("rbps", block_io.throttle_read_bps_device),
        ("wbps", block_io.throttle_write_bps_device),
        ("riops", block_io.throttle_read_iops_device),
        ("wiops", block_io.throttle_write_iops_device),
    ):
        for limit in limits:
            value = f"{limit.major}:{limit.minor} {key}={limit.rate or 'max'}"
            _set(directory, "io.max", value, f"{key} limit")


def _hugepage(directory: str, page: Hugepage) -> None:
    name, what = f"hugetlb.{page.page_size}", f"hugetlb limit for {page.page_size} pages"
    _set(directory, name + ".max", page.limit, what)
    reserved = f"{directory}/{name}.rsvd.max"
    if os.path.exists(reserved):  # Linux 5.7 and later
        files.write(reserved, str(page.limit))


def _unified(directory: str, name: str, value: str) -> None:
    if "/" in name:
        raise CgroupError(f'unified resource "{name}" must be a file name (no slashes)')
    controller, dot, _ = name.partition(".")
    if not dot:
        raise CgroupError(f'unified resource "{name}" must be in the form CONTROLLER.PARAMETER')
    try:
        for line in value.splitlines() or [""]:
            files.write(f"{directory}/{name}", line)
    except OSError as error:
        if (
            controller != "cgroup"
            and controller not in files.read(directory + "/cgroup.controllers").split()
        ):
            raise CgroupError(
                f'unified resource "{name}" can\'t be set: controller "{controller}" not available'
            ) from error
        raise CgroupError(
            f'unable to set unified resource "{name}": {os.strerror(error.errno or 0).lower()}'
        ) from error
