"""Library of lifecycle: limits that this kernel cannot meet.

Docker discards most of them with a warning, at create and at update, and refuses only CPUs and
memory nodes that are not there (moby v28.5.2 daemon/daemon_unix.go,
verifyPlatformContainerResources). What is wrong with a number whatever the kernel can do has been
refused by the API.
"""

from __future__ import annotations

from common.errors import InvalidArgument
from lifecycle._pb import containers_pb2 as pb
from lifecycle.host import Host

_LACKS = "Your kernel does not support "
_UNMOUNTED = " or the cgroup is not mounted. "

# Field, the controller's file that it needs, and Docker's warning without it.
_BLOCK_IO = (
    (
        "blkio_weight",
        "blkio.weight",
        f"{_LACKS}Block I/O weight{_UNMOUNTED}Weight discarded.",
    ),
    (
        "blkio_weight_device",
        "blkio.weight_device",
        f"{_LACKS}Block I/O weight_device{_UNMOUNTED}Weight-device discarded.",
    ),
    (
        "blkio_read_bps",
        "blkio.throttle.read_bps_device",
        f"{_LACKS}BPS Block I/O read limit{_UNMOUNTED}Block I/O BPS read limit discarded.",
    ),
    (
        "blkio_write_bps",
        "blkio.throttle.write_bps_device",
        f"{_LACKS}BPS Block I/O write limit{_UNMOUNTED}Block I/O BPS write limit discarded.",
    ),
    (
        "blkio_read_iops",
        "blkio.throttle.read_iops_device",
        f"{_LACKS}IOPS Block read limit{_UNMOUNTED}Block I/O IOPS read limit discarded.",
    ),
    (
        "blkio_write_iops",
        "blkio.throttle.write_iops_device",
        f"{_LACKS}IOPS Block write limit{_UNMOUNTED}Block I/O IOPS write limit discarded.",
    ),
)


def discard_unsupported(kernel: Host, resources: pb.Resources) -> list[str]:
    """Take out of ``resources`` what this kernel lacks; the warnings for the client."""
    return [
        *_memory(kernel, resources),
        *_oom_and_pids(kernel, resources),
        *_cpu(kernel, resources),
        *_cpuset(kernel, resources),
        *_block_io(kernel, resources),
    ]


def _memory(kernel: Host, resources: pb.Resources) -> list[str]:
    warnings = []
    if resources.memory > 0 and not kernel.memory_limit:
        warnings.append(f"{_LACKS}memory limit capabilities{_UNMOUNTED}Limitation discarded.")
        resources.memory = 0
        resources.memory_swap = -1
    if resources.memory > 0 and resources.memory_swap != -1 and not kernel.swap_limit:
        warnings.append(f"{_LACKS}swap limit capabilities{_UNMOUNTED}Memory limited without swap.")
        resources.memory_swap = -1
    if resources.HasField("memory_swappiness") and not kernel.memory_swappiness:
        warnings.append(
            f"{_LACKS}memory swappiness capabilities{_UNMOUNTED}Memory swappiness discarded."
        )
        resources.ClearField("memory_swappiness")
    if resources.memory_reservation > 0 and not kernel.memory_reservation:
        warnings.append(f"{_LACKS}memory soft limit capabilities{_UNMOUNTED}Limitation discarded.")
        resources.memory_reservation = 0
    return warnings


def _oom_and_pids(kernel: Host, resources: pb.Resources) -> list[str]:
    warnings = []
    if resources.HasField("oom_kill_disable") and not kernel.oom_kill_disable:
        if resources.oom_kill_disable:
            warnings.append(f"{_LACKS}OomKillDisable. OomKillDisable discarded.")
        resources.ClearField("oom_kill_disable")
    if resources.oom_kill_disable and not resources.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can "
            "result in the system running out of resources."
        )
    if resources.HasField("pids_limit") and not kernel.pids_limit:
        if resources.pids_limit > 0:
            warnings.append(f"{_LACKS}PIDs limit capabilities{_UNMOUNTED}PIDs limit discarded.")
        resources.ClearField("pids_limit")
    return warnings


def _cpu(kernel: Host, resources: pb.Resources) -> list[str]:
    warnings = []
    if resources.nano_cpus > 0 and not kernel.cpu_quota:
        raise InvalidArgument(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the "
            "cgroup is not mounted"
        )
    if resources.cpu_shares > 0 and not kernel.cpu_shares:
        warnings.append(f"{_LACKS}CPU shares{_UNMOUNTED}Shares discarded.")
        resources.cpu_shares = 0
    if (resources.cpu_period or resources.cpu_quota) and not kernel.cpu_quota:
        warnings.append(f"{_LACKS}CPU CFS scheduler. CPU period/quota discarded.")
        resources.cpu_period = resources.cpu_quota = 0
    if resources.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
        resources.cpu_percent = 0
    return warnings


def _cpuset(kernel: Host, resources: pb.Resources) -> list[str]:
    if (resources.cpuset_cpus or resources.cpuset_mems) and not kernel.cpuset:
        resources.cpuset_cpus = resources.cpuset_mems = ""
        return [f"{_LACKS}cpuset{_UNMOUNTED}Cpuset discarded."]
    for wanted, available, kind, what in (
        (resources.cpuset_cpus, kernel.cpus, "cpus", "CPUs"),
        (resources.cpuset_mems, kernel.mems, "mems", "memory nodes"),
    ):
        try:
            is_available = parse_list(wanted) <= parse_list(available)
        except ValueError:
            raise InvalidArgument(
                f"Invalid value {wanted} for cpuset {kind}: invalid format: {wanted}"
            ) from None
        if not is_available:
            raise InvalidArgument(
                f"Requested {what} are not available - requested {wanted}, available: {available}"
            )
    return []


def _block_io(kernel: Host, resources: pb.Resources) -> list[str]:
    warnings = []
    for field, file, warning in _BLOCK_IO:
        if getattr(resources, field) and file not in kernel.blkio:
            warnings.append(warning)
            resources.ClearField(field)
    if resources.blkio_weight and not 10 <= resources.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    return warnings


def parse_list(text: str) -> set[int]:
    """``0-2,7`` as the kernel writes and reads lists of CPUs; ValueError if it is none."""
    numbers: set[int] = set()
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        first, last = _number(low), _number(high if dash else low)
        if last < first or last - first > _MOST_CPUS:
            raise ValueError(part)
        numbers.update(range(first, last + 1))
    return numbers


_MOST_CPUS = 8192  # what Docker reads at most; a client's "0-99999999999" must cost nothing


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(text)
    return int(text)
