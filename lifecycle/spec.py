"""Library of lifecycle: a container's record as the OCI runtime's config.json.

``build`` is a pure function of its arguments but for looking at device nodes. Users and groups that
are names stay names (runtime/spec.py, ``User.username``): only the container's own files can
resolve them, and the runtime reads those from inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lifecycle import capabilities, spec_mounts, spec_resources
from lifecycle._pb import containers_pb2 as pb
from lifecycle.init_program import PATH_INSIDE
from lifecycle.remap import Remap

Json = dict[str, Any]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container's spec takes from elsewhere than its record."""

    mounts: Sequence[spec_mounts.Json]  # binds, volumes, tmpfs: destination order
    files: Mapping[str, str]  # /etc/hosts and the like: destination to path on the host
    namespaces: Mapping[str, str] = field(default_factory=dict)  # joined ones: type to path
    shm_path: str = ""  # a /dev/shm shared with another container
    cgroup_version: int = 1
    remap: Remap | None = None  # the container's ids on the host, if they are not the same
    hostname: str = ""
    link_environment: Sequence[str] = ()
    init_path: str = ""  # on the host, for --init
    no_new_privileges: bool = False
    writable_cgroups: bool = False
    apparmor: str = ""
    default_ulimits: Sequence[pb.Ulimit] = ()
    cgroup_parent: str = "/longshore"


def build(container: pb.Container, around: Surroundings) -> Json:
    """config.json without seccomp, which the shim gets compiled."""
    host = container.host_config
    device_nodes, device_rules = spec_resources.devices(host)
    device_mounts = []
    if around.remap is not None:
        device_nodes, device_mounts = [], spec_resources.device_mounts(host)
    spec: Json = {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "process": process(container, around),
        "mounts": spec_mounts.build(host, around) + device_mounts,
        "annotations": dict(host.annotations),
        "linux": {
            "namespaces": _namespaces(container, around),
            **(around.remap.mappings if around.remap else {}),
            "devices": device_nodes,
            "cgroupsPath": cgroup_path(container, around.cgroup_parent),
            "resources": spec_resources.resources(host, device_rules),
            "sysctl": _sysctls(host, mapped=around.remap is not None),
            "maskedPaths": list(host.masked_paths.values),
            "readonlyPaths": list(host.readonly_paths.values),
            "rootfsPropagation": spec_mounts.rootfs_propagation(around.mounts),
        },
    }
    if host.uts_mode != "host":
        spec["hostname"] = around.hostname
        if container.config.domainname:
            spec["domainname"] = container.config.domainname
    return spec


def _sysctls(host: pb.HostConfig, *, mapped: bool) -> Mapping[str, str]:
    """Docker lets every user ping, and serve low ports, where the network is the container's.

    Not the former in a user namespace, which has fewer groups than the range.
    """
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        return dict(host.sysctls)
    groups = {} if mapped else {"net.ipv4.ping_group_range": "0 2147483647"}
    return {**groups, "net.ipv4.ip_unprivileged_port_start": "0", **host.sysctls}


def cgroup_path(container: pb.Container, default_parent: str) -> str:
    parent = container.host_config.resources.cgroup_parent or default_parent
    return f"{parent.rstrip('/')}/{container.id}"


def process(container: pb.Container, around: Surroundings) -> Json:
    config, host = container.config, container.host_config
    arguments = [container.path, *container.args]
    if around.init_path:
        arguments = [PATH_INSIDE, "--", *arguments]
    result: Json = {
        "args": arguments,
        "cwd": config.working_dir or "/",
        "env": environment(config, around.hostname, around.link_environment),
        "terminal": config.tty,
        "user": user(config.user, host.group_add.values),
        "capabilities": capability_sets(host),
        "noNewPrivileges": around.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
        "rlimits": rlimits(host, around.default_ulimits),
    }
    if config.tty and host.console_height:
        result["consoleSize"] = {"height": host.console_height, "width": host.console_width}
    if around.apparmor:
        result["apparmorProfile"] = around.apparmor
    return result


def environment(config: pb.Config, hostname: str, links: Sequence[str] = ()) -> list[str]:
    """Docker's own variables, then links', then the container's, where a later one replaces."""
    base = [PATH, f"HOSTNAME={hostname}"]
    if config.tty:
        base.append("TERM=xterm")
    return merge_environment([*base, *links], config.env.values)


def merge_environment(base: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """``overrides`` over ``base`` in place; an override without "=" removes the variable."""
    merged = {entry.partition("=")[0]: entry for entry in base}
    for entry in overrides:
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def user(text: str, groups: Sequence[str]) -> Json:
    """``user[:group]`` for the runtime to resolve; uid 0 needs no file of the image."""
    result: Json = {"uid": 0, "gid": 0}
    if text or groups:
        result["username"] = text or "0"
    if groups:
        result["additionalGroups"] = list(groups)
    return result


def capability_sets(host: pb.HostConfig, *, privileged: bool = False) -> Json:
    """Bounding, permitted and effective; never inheritable or ambient (CVE-2022-24769)."""
    granted = capabilities.adjust(
        host.cap_add.values, host.cap_drop.values, privileged=host.privileged or privileged
    )
    return {"bounding": granted, "effective": granted, "permitted": granted}


def rlimits(host: pb.HostConfig, defaults: Sequence[pb.Ulimit]) -> list[Json]:
    chosen = {limit.name: limit for limit in (*defaults, *host.resources.ulimits)}
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": limit.soft if limit.soft >= 0 else 2**64 - 1,
            "hard": limit.hard if limit.hard >= 0 else 2**64 - 1,
        }
        for name, limit in chosen.items()
    ]


def _namespaces(container: pb.Container, around: Surroundings) -> list[Json]:
    host = container.host_config
    shared = {
        "user": around.remap is None,
        "pid": host.pid_mode == "host",
        "ipc": host.ipc_mode == "host",
        "uts": host.uts_mode == "host",
        "network": host.network_mode == "host",
        "cgroup": host.cgroupns_mode == "host",
    }
    namespaces: list[Json] = [{"type": "mount"}]
    for kind, is_shared in shared.items():
        if kind in around.namespaces:
            namespaces.append({"type": kind, "path": around.namespaces[kind]})
        elif not is_shared:
            namespaces.append({"type": kind})
    return namespaces
