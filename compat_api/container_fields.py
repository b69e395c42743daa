"""longshored: the tables of the objects that make up a container, for create, update and inspect.

Each line is a field of the newest version of the API; schema.py says what the classes mean. Where a
JSON value is not the message's shape, the field has a class of its own at the end of this file's
first part.
"""

from __future__ import annotations

from typing import Any

from common.errors import InvalidArgument
from compat_api.schema import (
    OMIT,
    Field,
    Flag,
    Integer,
    Keys,
    Map,
    Object,
    Objects,
    OptionalFlag,
    OptionalInteger,
    Schema,
    Text,
    Texts,
    mismatch,
    texts,
)


class PortBindings(Field):
    """``{"80/tcp": [{"HostIp": ..., "HostPort": ...}]}``; a list may be null."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not dict:
            raise mismatch(value, where, "nat.PortMap")
        message.has_port_bindings = True
        for port, hosts in value.items():
            binding = getattr(message, self.attribute).add(port=port, is_null=hosts is None)
            if hosts is None:
                continue
            if type(hosts) is not list:
                raise mismatch(hosts, where, "[]nat.PortBinding")
            for host in hosts:
                HOST_PORT.parse(host if host is not None else {}, binding.host.add(), where)

    def render(self, message: Any) -> Any:
        bindings = getattr(message, self.attribute)
        if not bindings and not message.has_port_bindings:
            return None
        return render_ports(bindings)


class ConsoleSize(Field):
    """``[height, width]``."""

    __slots__ = ("null",)

    def __init__(self, json: str, *, null: bool = False) -> None:
        super().__init__(json, "console_height")
        self.null = null

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not list or not all(type(item) is int for item in value):
            raise mismatch(value, where, "[2]uint")
        if any(not 0 <= item <= 0xFFFF for item in value):
            raise InvalidArgument(f"invalid console size {value}")
        height, width = (*value, 0, 0)[:2]
        message.console_height, message.console_width = height, width

    def render(self, message: Any) -> Any:
        size = [message.console_height, message.console_width]
        return None if self.null and not any(size) else size


class TextLists(Field):
    """A list of lists of strings."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not list:
            raise mismatch(value, where, "[][]string")
        for item in value:
            words = texts(item if item is not None else [], where)
            getattr(message, self.attribute).add(values=words)

    def render(self, message: Any) -> Any:
        value = [list(item.values) for item in getattr(message, self.attribute)]
        return value or (OMIT if self.omit_empty else None)


class DriverConfig(Field):
    """``{"Name": ..., "Options": {...}}`` of a volume; its fields lie flat in the message."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        message.has_driver = True
        DRIVER.parse(value, message, where)

    def render(self, message: Any) -> Any:
        return DRIVER.render(message) if message.has_driver else OMIT


class IpamConfig(Field):
    """Addresses that a client asks for on a network; they lie flat in the message."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        message.has_ipam_config = True
        ENDPOINT_IPAM.parse(value, message, where)

    def render(self, message: Any) -> Any:
        return ENDPOINT_IPAM.render(message) if message.has_ipam_config else None


def render_ports(bindings: Any) -> dict[str, Any]:
    """PortBinding messages as Docker's map."""
    return {
        binding.port: None
        if binding.is_null
        else [{"HostIp": host.host_ip, "HostPort": host.host_port} for host in binding.host]
        for binding in bindings
    }


HOST_PORT = Schema("nat.PortBinding", (Text("HostIp", "host_ip"), Text("HostPort", "host_port")))

HEALTHCHECK = Schema(
    "container.HealthConfig",
    (
        Texts("Test", "test", omit_empty=True),
        Integer("Interval", "interval", omit_empty=True),
        Integer("Timeout", "timeout", omit_empty=True),
        Integer("StartPeriod", "start_period", omit_empty=True),
        Integer("StartInterval", "start_interval", omit_empty=True),
        Integer("Retries", "retries", "int", omit_empty=True),
    ),
)

CONFIG = Schema(
    "container.Config",
    (
        Text("Hostname", "hostname"),
        Text("Domainname", "domainname"),
        Text("User", "user"),
        Flag("AttachStdin", "attach_stdin"),
        Flag("AttachStdout", "attach_stdout"),
        Flag("AttachStderr", "attach_stderr"),
        Keys("ExposedPorts", "exposed_ports", "nat.PortSet", omit_empty=True),
        Flag("Tty", "tty"),
        Flag("OpenStdin", "open_stdin"),
        Flag("StdinOnce", "stdin_once"),
        Texts("Env", "env"),
        Texts("Cmd", "cmd", single=True),
        Object("Healthcheck", "healthcheck", HEALTHCHECK, omit_empty=True),
        Flag("ArgsEscaped", "args_escaped", omit_empty=True),
        Text("Image", "image"),
        Keys("Volumes", "volumes"),
        Text("WorkingDir", "working_dir"),
        Texts("Entrypoint", "entrypoint", single=True),
        Flag("NetworkDisabled", "network_disabled", omit_empty=True),
        Text("MacAddress", "mac_address", omit_empty=True),
        Texts("OnBuild", "on_build"),
        Map("Labels", "labels"),
        Text("StopSignal", "stop_signal", omit_empty=True),
        OptionalInteger("StopTimeout", "stop_timeout", "int", omit_empty=True),
        Texts("Shell", "shell", single=True, omit_empty=True),
    ),
)

WEIGHT_DEVICE = Schema(
    "blkiodev.WeightDevice", (Text("Path", "path"), Integer("Weight", "weight", "uint16"))
)

THROTTLE_DEVICE = Schema(
    "blkiodev.ThrottleDevice", (Text("Path", "path"), Integer("Rate", "rate", "uint64"))
)

DEVICE_MAPPING = Schema(
    "container.DeviceMapping",
    (
        Text("PathOnHost", "path_on_host"),
        Text("PathInContainer", "path_in_container"),
        Text("CgroupPermissions", "cgroup_permissions"),
    ),
)

DEVICE_REQUEST = Schema(
    "container.DeviceRequest",
    (
        Text("Driver", "driver"),
        Integer("Count", "count", "int"),
        Texts("DeviceIDs", "device_ids"),
        TextLists("Capabilities", "capabilities"),
        Map("Options", "options", presence="has_options"),
    ),
)

ULIMIT = Schema(
    "units.Ulimit", (Text("Name", "name"), Integer("Hard", "hard"), Integer("Soft", "soft"))
)

RESOURCES = Schema(
    "container.Resources",
    (
        Integer("CpuShares", "cpu_shares"),
        Integer("Memory", "memory"),
        Integer("NanoCpus", "nano_cpus"),
        Text("CgroupParent", "cgroup_parent"),
        Integer("BlkioWeight", "blkio_weight", "uint16"),
        Objects(
            "BlkioWeightDevice",
            "blkio_weight_device",
            WEIGHT_DEVICE,
            presence="has_blkio_weight_device",
        ),
        Objects(
            "BlkioDeviceReadBps",
            "blkio_read_bps",
            THROTTLE_DEVICE,
            presence="has_blkio_read_bps",
        ),
        Objects(
            "BlkioDeviceWriteBps",
            "blkio_write_bps",
            THROTTLE_DEVICE,
            presence="has_blkio_write_bps",
        ),
        Objects(
            "BlkioDeviceReadIOps",
            "blkio_read_iops",
            THROTTLE_DEVICE,
            presence="has_blkio_read_iops",
        ),
        Objects(
            "BlkioDeviceWriteIOps",
            "blkio_write_iops",
            THROTTLE_DEVICE,
            presence="has_blkio_write_iops",
        ),
        Integer("CpuPeriod", "cpu_period"),
        Integer("CpuQuota", "cpu_quota"),
        Integer("CpuRealtimePeriod", "cpu_realtime_period"),
        Integer("CpuRealtimeRuntime", "cpu_realtime_runtime"),
        Text("CpusetCpus", "cpuset_cpus"),
        Text("CpusetMems", "cpuset_mems"),
        Objects("Devices", "devices", DEVICE_MAPPING, presence="has_devices"),
        Texts("DeviceCgroupRules", "device_cgroup_rules"),
        Objects(
            "DeviceRequests", "device_requests", DEVICE_REQUEST, presence="has_device_requests"
        ),
        Integer("KernelMemory", "kernel_memory", omit_empty=True),
        Integer("KernelMemoryTCP", "kernel_memory_tcp", omit_empty=True),
        Integer("MemoryReservation", "memory_reservation"),
        Integer("MemorySwap", "memory_swap"),
        OptionalInteger("MemorySwappiness", "memory_swappiness"),
        OptionalFlag("OomKillDisable", "oom_kill_disable"),
        OptionalInteger("PidsLimit", "pids_limit"),
        Objects("Ulimits", "ulimits", ULIMIT, presence="has_ulimits"),
        Integer("CpuCount", "cpu_count"),
        Integer("CpuPercent", "cpu_percent"),
        Integer("IOMaximumIOps", "io_maximum_iops"),
        Integer("IOMaximumBandwidth", "io_maximum_bandwidth"),
    ),
)

LOG_CONFIG = Schema("container.LogConfig", (Text("Type", "type"), Map("Config", "config")))

RESTART_POLICY = Schema(
    "container.RestartPolicy",
    (Text("Name", "name"), Integer("MaximumRetryCount", "maximum_retry_count", "int")),
)

DRIVER = Schema(
    "mount.Driver",
    (
        Text("Name", "driver", omit_empty=True),
        Map("Options", "driver_options", presence="has_driver_options", omit_empty=True),
    ),
)

MOUNT = Schema(
    "mount.Mount",
    (
        Text("Type", "type", omit_empty=True),
        Text("Source", "source", omit_empty=True),
        Text("Target", "target", omit_empty=True),
        Flag("ReadOnly", "read_only", omit_empty=True),
        Text("Consistency", "consistency", omit_empty=True),
        Object(
            "BindOptions",
            "bind",
            Schema(
                "mount.BindOptions",
                (
                    Text("Propagation", "propagation", omit_empty=True),
                    Flag("NonRecursive", "non_recursive", omit_empty=True),
                    Flag("CreateMountpoint", "create_mountpoint", omit_empty=True),
                    Flag("ReadOnlyNonRecursive", "read_only_non_recursive", omit_empty=True),
                    Flag("ReadOnlyForceRecursive", "read_only_force_recursive", omit_empty=True),
                ),
            ),
            omit_empty=True,
        ),
        Object(
            "VolumeOptions",
            "volume",
            Schema(
                "mount.VolumeOptions",
                (
                    Flag("NoCopy", "no_copy", omit_empty=True),
                    Map("Labels", "labels", presence="has_labels", omit_empty=True),
                    Text("Subpath", "subpath", omit_empty=True),
                    DriverConfig("DriverConfig", "driver"),
                ),
            ),
            omit_empty=True,
        ),
        Object(
            "ImageOptions",
            "image",
            Schema("mount.ImageOptions", (Text("Subpath", "subpath", omit_empty=True),)),
            omit_empty=True,
        ),
        Object(
            "TmpfsOptions",
            "tmpfs",
            Schema(
                "mount.TmpfsOptions",
                (
                    Integer("SizeBytes", "size_bytes", omit_empty=True),
                    Integer("Mode", "mode", "uint32", omit_empty=True),
                    TextLists("Options", "options", omit_empty=True),
                ),
            ),
            omit_empty=True,
        ),
    ),
)

HOST_CONFIG = Schema(
    "container.HostConfig",
    (
        Texts("Binds", "binds"),
        Text("ContainerIDFile", "container_id_file"),
        Object("LogConfig", "log_config", LOG_CONFIG, always=True),
        Text("NetworkMode", "network_mode"),
        PortBindings("PortBindings", "port_bindings"),
        Object("RestartPolicy", "restart_policy", RESTART_POLICY, always=True),
        Flag("AutoRemove", "auto_remove"),
        Text("VolumeDriver", "volume_driver"),
        Texts("VolumesFrom", "volumes_from"),
        ConsoleSize("ConsoleSize"),
        Map("Annotations", "annotations", omit_empty=True),
        Texts("CapAdd", "cap_add", single=True),
        Texts("CapDrop", "cap_drop", single=True),
        Text("CgroupnsMode", "cgroupns_mode"),
        Texts("Dns", "dns"),
        Texts("DnsOptions", "dns_options"),
        Texts("DnsSearch", "dns_search"),
        Texts("ExtraHosts", "extra_hosts"),
        Texts("GroupAdd", "group_add"),
        Text("IpcMode", "ipc_mode"),
        Text("Cgroup", "cgroup"),
        Texts("Links", "links"),
        Integer("OomScoreAdj", "oom_score_adj", "int"),
        Text("PidMode", "pid_mode"),
        Flag("Privileged", "privileged"),
        Flag("PublishAllPorts", "publish_all_ports"),
        Flag("ReadonlyRootfs", "readonly_rootfs"),
        Texts("SecurityOpt", "security_opt"),
        Map("StorageOpt", "storage_opt", omit_empty=True),
        Map("Tmpfs", "tmpfs", omit_empty=True),
        Text("UTSMode", "uts_mode"),
        Text("UsernsMode", "userns_mode"),
        Integer("ShmSize", "shm_size"),
        Map("Sysctls", "sysctls", omit_empty=True),
        Text("Runtime", "runtime", omit_empty=True),
        Text("Isolation", "isolation"),
        Objects("Mounts", "mounts", MOUNT, omit_empty=True),
        Texts("MaskedPaths", "masked_paths"),
        Texts("ReadonlyPaths", "readonly_paths"),
        OptionalFlag("Init", "init", omit_empty=True),
    ),
    embedded=("resources", RESOURCES),
)

UPDATE = Schema(
    "container.UpdateConfig",
    (Object("RestartPolicy", "restart_policy", RESTART_POLICY),),
    embedded=("resources", RESOURCES),
)

ENDPOINT_IPAM = Schema(
    "network.EndpointIPAMConfig",
    (
        Text("IPv4Address", "ipv4_request", omit_empty=True),
        Text("IPv6Address", "ipv6_request", omit_empty=True),
        Texts("LinkLocalIPs", "link_local", omit_empty=True),
    ),
)

# What a client asks for; what the endpoint got is added by container_json.py.
ENDPOINT = Schema(
    "network.EndpointSettings",
    (
        IpamConfig("IPAMConfig", "has_ipam_config"),
        Texts("Links", "links"),
        Texts("Aliases", "aliases"),
        Text("MacAddress", "mac_address"),
        Map("DriverOpts", "driver_opts", null=True),
        Integer("GwPriority", "gw_priority", "int"),
    ),
)

EXEC = Schema(
    "container.ExecOptions",
    (
        Text("User", "user"),
        Flag("Privileged", "privileged"),
        Flag("Tty", "tty"),
        ConsoleSize("ConsoleSize", null=True),
        Flag("AttachStdin", "attach_stdin"),
        Flag("AttachStderr", "attach_stderr"),
        Flag("AttachStdout", "attach_stdout"),
        Text("DetachKeys", "detach_keys"),
        Text("WorkingDir", "working_dir"),
    ),
)
