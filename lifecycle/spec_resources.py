"""Library of lifecycle: Docker's Resources as the OCI specification's linux.resources; pure
functions.

Where a number of Docker's stands for "not given", nothing is written, so that the kernel's own
default stays.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Any

from common.errors import InternalError
from lifecycle._pb import containers_pb2 as pb

Json = dict[str, Any]

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})", re.ASCII)

CPU_PERIOD = 100_000  # µs, the kernel's default and Docker's

# What every container may use: null, zero, full, random, urandom, tty, ptmx, its own terminals, and
# making (not opening) any node.
DEFAULT_DEVICE_RULES: tuple[Json, ...] = (
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
    ),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)


def resources(host: pb.HostConfig, device_rules: list[Json]) -> Json:
    """linux.resources of a container, or of an update if ``device_rules`` is empty."""
    asked = host.resources
    result: Json = {
        "memory": _memory(asked),
        "cpu": _cpu(asked),
        "blockIO": _block_io(asked),
    }
    if asked.HasField("pids_limit"):
        result["pids"] = {"limit": asked.pids_limit if asked.pids_limit > 0 else -1}
    if device_rules:
        result["devices"] = device_rules
    return {name: value for name, value in result.items() if value}


def _memory(asked: pb.Resources) -> Json:
    memory: Json = {}
    if asked.memory:
        memory["limit"] = asked.memory
    if asked.memory_reservation:
        memory["reservation"] = asked.memory_reservation
    if asked.memory_swap:
        memory["swap"] = asked.memory_swap
    elif asked.memory > 0:
        memory["swap"] = 2 * asked.memory  # Docker's default: as much swap as memory
    if asked.kernel_memory_tcp:
        memory["kernelTCP"] = asked.kernel_memory_tcp
    if asked.HasField("memory_swappiness") and asked.memory_swappiness >= 0:
        memory["swappiness"] = asked.memory_swappiness
    if asked.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(asked: pb.Resources) -> Json:
    cpu: Json = {}
    if asked.cpu_shares:
        cpu["shares"] = asked.cpu_shares
    if asked.nano_cpus:
        cpu["period"] = CPU_PERIOD
        cpu["quota"] = asked.nano_cpus * CPU_PERIOD // 1_000_000_000
    if asked.cpu_period:
        cpu["period"] = asked.cpu_period
    if asked.cpu_quota:
        cpu["quota"] = asked.cpu_quota
    if asked.cpu_realtime_period:
        cpu["realtimePeriod"] = asked.cpu_realtime_period
    if asked.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = asked.cpu_realtime_runtime
    if asked.cpuset_cpus:
        cpu["cpus"] = asked.cpuset_cpus
    if asked.cpuset_mems:
        cpu["mems"] = asked.cpuset_mems
    return cpu


def _block_io(asked: pb.Resources) -> Json:
    block_io: Json = {}
    if asked.blkio_weight:
        block_io["weight"] = asked.blkio_weight
    if asked.blkio_weight_device:
        block_io["weightDevice"] = [
            {**_numbers(device.path), "weight": device.weight}
            for device in asked.blkio_weight_device
        ]
    for name, devices in (
        ("throttleReadBpsDevice", asked.blkio_read_bps),
        ("throttleWriteBpsDevice", asked.blkio_write_bps),
        ("throttleReadIOPSDevice", asked.blkio_read_iops),
        ("throttleWriteIOPSDevice", asked.blkio_write_iops),
    ):
        if devices:
            block_io[name] = [{**_numbers(device.path), "rate": device.rate} for device in devices]
    return block_io


def _numbers(path: str) -> Json:
    try:
        status = os.stat(path)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise InternalError(f"stat {path}: {reason}") from error
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}


def devices(host: pb.HostConfig) -> tuple[list[Json], list[Json]]:
    """linux.devices and the cgroup's device rules."""
    if host.privileged:
        return _host_devices(), [{"allow": True, "access": "rwm"}]
    nodes: list[Json] = []
    rules: list[Json] = [*DEFAULT_DEVICE_RULES]
    for mapping in host.resources.devices:
        for _, node in _mapped(mapping):
            nodes.append(node)
            rules.append(
                {
                    "allow": True,
                    "type": node["type"],
                    "major": node["major"],
                    "minor": node["minor"],
                    "access": "".join(
                        letter for letter in mapping.cgroup_permissions or "rwm" if letter in "rwm"
                    ),
                }
            )
    rules += [_parse_rule(rule) for rule in host.resources.device_cgroup_rules.values]
    return nodes, rules


def device_mounts(host: pb.HostConfig) -> list[Json]:
    """The same for who cannot make nodes: the host's own, wherever they are on it."""
    return [
        {
            "destination": node["path"],
            "type": "bind",
            "source": path,
            "options": ["bind", "rprivate"],
        }
        for mapping in host.resources.devices
        for path, node in _mapped(mapping)
    ]


def _mapped(mapping: pb.DeviceMapping) -> Iterable[tuple[str, Json]]:
    """The host's path and the node of a --device, or of all below a directory."""
    source = os.path.realpath(mapping.path_on_host)
    target = mapping.path_in_container or mapping.path_on_host
    if not os.path.isdir(source):
        node = _node(source, target)
        if node is None:
            raise _not_a_device(source)
        return [(source, node)]
    found = []
    for directory, _, files in os.walk(source):
        for name in sorted(files):
            path = os.path.join(directory, name)
            node = _node(path, target + path[len(source) :])
            if node is not None:
                found.append((path, node))
    if not found:
        raise _not_a_device(source)
    return found


def _not_a_device(source: str) -> InternalError:
    why = "not a device node" if os.path.exists(source) else "no such file or directory"
    return InternalError(
        f'error gathering device information while adding custom device "{source}": {why}'
    )


def _host_devices() -> list[Json]:
    """All of the host's nodes, for --privileged, without terminals and what has its own mount."""
    found = []
    for directory, subdirectories, files in os.walk("/dev"):
        subdirectories[:] = [
            name
            for name in subdirectories
            if name not in ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev")
        ]
        for name in sorted(files):
            path = os.path.join(directory, name)
            node = None if path in ("/dev/console", "/dev/ptmx") else _node(path, path)
            if node is not None:
                found.append(node)
    return found


def _node(source: str, target: str) -> Json | None:
    try:
        status = os.lstat(source)
    except OSError:
        return None
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def _parse_rule(text: str) -> Json:
    """``c 1:3 rwm``"""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InternalError(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    rule: Json = {"allow": True, "type": kind, "access": access}
    if major != "*":
        rule["major"] = int(major)
    if minor != "*":
        rule["minor"] = int(minor)
    return rule
