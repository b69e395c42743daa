"""Library: OCI runtime-spec 1.3 config.json as frozen dataclasses.

Everything that runs a container passes these around: the shim, ``longshore-runtime``,
runtime/cgroups (``Resources``), runtime/seccomp (``Seccomp``). ``None`` means that the document
does not say; numbers keep the specification's meaning, so -1 in ``Memory.limit`` is "no limit".
Two fields go beyond it: ``User.username`` and ``User.additional_groups`` are names that only the
container's own /etc/passwd and /etc/group can turn into numbers, and its root file system may
exist nowhere but in its mount namespace. What makes a combination of values valid is in
runtime/validate.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from runtime.jsonfields import InvalidSpec, decode

__all__ = ["InvalidSpec", "parse", "parse_process", "parse_resources", "parse_seccomp"]


@dataclass(frozen=True, slots=True)
class ConsoleSize:
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class User:
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    # Docker's "user[:group]", looked up inside the container; then uid and gid above are not used.
    username: str | None = None
    additional_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scheduler:
    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class IOPriority:
    class_: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ExecCPUAffinity:
    initial: str = ""
    final: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    args: tuple[str, ...] = ()
    cwd: str = "/"
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = field(default_factory=User)
    rlimits: tuple[Rlimit, ...] = ()
    capabilities: Capabilities | None = None
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""


@dataclass(frozen=True, slots=True)
class Root:
    path: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class IDMapping:
    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Mount:
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Hook:
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    type: str  # pid, network, mount, ipc, uts, user, cgroup, time
    path: str = ""


@dataclass(frozen=True, slots=True)
class TimeOffset:
    secs: int = 0
    nanosecs: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    path: str
    type: str  # c, b, u, p
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceRule:
    allow: bool
    type: str = "a"  # a, c, b
    major: int | None = None  # None and -1: all
    minor: int | None = None
    access: str = ""  # of r, w, m; empty: all


@dataclass(frozen=True, slots=True)
class Memory:
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None  # memory + swap, as in cgroup v1
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


@dataclass(frozen=True, slots=True)
class CPU:
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class Pids:
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class WeightDevice:
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


@dataclass(frozen=True, slots=True)
class ThrottleDevice:
    major: int
    minor: int
    rate: int


@dataclass(frozen=True, slots=True)
class BlockIO:
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


@dataclass(frozen=True, slots=True)
class Hugepage:
    page_size: str  # such as 2MB
    limit: int


@dataclass(frozen=True, slots=True)
class InterfacePriority:
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class Network:
    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


@dataclass(frozen=True, slots=True)
class Rdma:
    hca_handles: int | None = None
    hca_objects: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[Hugepage, ...] = ()
    network: Network | None = None
    rdma: Mapping[str, Rdma] = field(default_factory=dict)
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeccompArg:
    index: int
    value: int
    value_two: int = 0
    op: str = "SCMP_CMP_EQ"


@dataclass(frozen=True, slots=True)
class SeccompRule:
    names: tuple[str, ...]
    action: str  # SCMP_ACT_*
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


@dataclass(frozen=True, slots=True)
class Seccomp:
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()  # SCMP_ARCH_*
    flags: tuple[str, ...] = ()  # SECCOMP_FILTER_FLAG_*
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Personality:
    domain: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Linux:
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    time_offsets: Mapping[str, TimeOffset] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = field(default_factory=Resources)
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: Mapping[str, str] = field(default_factory=dict)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: Personality | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    oci_version: str
    root: Root
    process: Process = field(default_factory=Process)
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    annotations: Mapping[str, str] = field(default_factory=dict)
    linux: Linux = field(default_factory=Linux)


def parse(data: bytes) -> Spec:
    """The whole config.json; raises InvalidSpec. The values are checked by create()."""
    return decode(Spec, _load(data))


def parse_process(data: bytes | dict[str, object]) -> Process:
    return decode(Process, _load(data), "process")


def parse_resources(data: bytes | dict[str, object]) -> Resources:
    return decode(Resources, _load(data), "resources")


def parse_seccomp(data: bytes | dict[str, object]) -> Seccomp:
    """One filter with names already resolved to rules, as linux.seccomp holds it."""
    return decode(Seccomp, _load(data), "seccomp")


def _load(data: bytes | dict[str, object]) -> object:
    if isinstance(data, dict):
        return data
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidSpec("", f"invalid JSON: {error}") from error
