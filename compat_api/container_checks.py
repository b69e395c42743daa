"""longshored: what is wrong with a container's body whatever the state of the engine is.

Called by container_create.py before lifecycle is asked; each function looks at one section and
raises InvalidArgument with Docker's text. What depends on the image, on other objects, on the
kernel or on the engine's options is lifecycle's to check.
"""

from __future__ import annotations

import os
import posixpath
import re
import signal
from collections.abc import Iterable

from common.errors import InvalidArgument
from compat_api.endpoint_checks import is_address
from compat_api.mount_checks import check_bind, check_mount, check_mount_destination, quoted
from lifecycle._pb import containers_pb2 as pb

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
MIN_MEMORY = 6 << 20
MIN_DURATION = 1_000_000  # ns

# fmt: off
CAPABILITIES = frozenset(
    (
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF",
        "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID",
        "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN",
        "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW",
        "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
        "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO",
        "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM",
    )
)
# fmt: on


def check_name(name: str) -> None:
    if name and not NAME.fullmatch(name):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


# Config.


def check_line(what: str, text: str) -> None:
    """For what becomes part of a line of /etc/hosts and its like, where a second would count."""
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise InvalidArgument(f"invalid {what}: control characters are not allowed")


def check_config(config: pb.Config) -> None:
    check_line("hostname", config.hostname)
    check_line("domain name", config.domainname)
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, "
                "it needs to be an absolute path"
            )
        config.working_dir = clean_path(config.working_dir)
    if config.stop_signal:
        check_signal(config.stop_signal)
    for entry in config.env.values:
        if not entry.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if config.HasField("healthcheck"):
        check_healthcheck(config.healthcheck)


def check_healthcheck(healthcheck: pb.Healthcheck) -> None:
    for name, value in (
        ("Interval", healthcheck.interval),
        ("Timeout", healthcheck.timeout),
        ("StartPeriod", healthcheck.start_period),
        ("StartInterval", healthcheck.start_interval),
    ):
        if value and value < MIN_DURATION:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if healthcheck.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def check_signal(text: str) -> None:
    """A number, or a name with or without SIG; real-time signals as RTMIN+n and RTMAX-n."""
    if text.isascii() and text.isdecimal():
        if int(text) == 0:
            raise InvalidArgument(f"invalid signal: {text}")
        return
    name = text.upper().removeprefix("SIG")
    if re.fullmatch(r"RTMIN(\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?", name):
        return
    if f"SIG{name}" not in signal.Signals.__members__:
        raise InvalidArgument(f"invalid signal: {text}")


def clean_path(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


# HostConfig.


def check_modes(config: pb.Config, host: pb.HostConfig) -> None:
    """What a network or UTS namespace that is shared excludes."""
    mode, _, shared = host.network_mode.partition(":")
    if mode == "container":
        check_shared_network(config, host, shared)
    if host.uts_mode == "host" and config.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    if host.network_mode == "host" and host.links.values:
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )
    if host.isolation and host.isolation.lower() != "default":
        raise InvalidArgument(
            f"invalid isolation ({host.isolation}): linux only supports 'default'"
        )


def check_shared_network(config: pb.Config, host: pb.HostConfig, shared: str) -> None:
    if not shared:
        raise InvalidArgument("invalid network mode: invalid container format container:<name|id>")
    if config.hostname:
        raise InvalidArgument("conflicting options: hostname and the network mode")
    if host.links.values:
        raise InvalidArgument(
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior"
        )
    if host.dns.values:
        raise InvalidArgument("conflicting options: dns and the network mode")
    if host.extra_hosts.values:
        raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
    if host.port_bindings or host.publish_all_ports:
        raise InvalidArgument(
            "conflicting options: port publishing and the container type network mode"
        )
    if config.exposed_ports.values:
        raise InvalidArgument(
            "conflicting options: port exposing and the container type network mode"
        )


def check_host_config(host: pb.HostConfig) -> None:
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    for mount in host.mounts:
        check_mount(mount)
    for entry in host.extra_hosts.values:
        check_extra_host(entry)
    for entry in (*host.dns_search.values, *host.dns_options.values):
        check_line("dns search domain or option", entry)
    for entry in host.links.values:
        check_line("link", entry)
    check_port_bindings(host.port_bindings)
    check_restart_policy(host.restart_policy)
    check_capabilities("CapAdd", host.cap_add.values)
    check_capabilities("CapDrop", host.cap_drop.values)
    if "" in host.annotations:
        raise InvalidArgument(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    check_namespaces(host)
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    for destination in host.tmpfs:
        check_mount_destination(destination)
    for bind in host.binds.values:
        check_bind(bind)


def check_namespaces(host: pb.HostConfig) -> None:
    ipc, _, _ = host.ipc_mode.partition(":")
    if ipc not in ("", "none", "private", "host", "shareable", "container"):
        raise InvalidArgument(f"invalid IPC mode: {host.ipc_mode}")
    pid, _, container = host.pid_mode.partition(":")
    if host.pid_mode not in ("", "host") and not (pid == "container" and container):
        raise InvalidArgument(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in ("", "private", "host"):
        raise InvalidArgument(f"invalid cgroup namespace mode: {host.cgroupns_mode}")


def check_extra_host(entry: str) -> None:
    name, colon, address = entry.partition(":")
    if not (name and colon):
        raise InvalidArgument(f"bad format for add-host: {quoted(entry)}")
    check_line("name in add-host", name)
    if address != "host-gateway" and not is_address(address):
        raise InvalidArgument(f"invalid IP address in add-host: {quoted(address)}")


def check_port_bindings(bindings: Iterable[pb.PortBinding]) -> None:
    for binding in bindings:
        port = binding.port.partition("/")[0]
        if not is_port(port):
            raise InvalidArgument(f"invalid port specification: {quoted(port)}")
        for host in binding.host:
            if not is_port_range(host.host_port.partition("/")[0]):
                raise InvalidArgument(f"invalid port specification: {quoted(host.host_port)}")
            if host.host_ip and not is_address(host.host_ip):
                raise InvalidArgument(f"invalid IP address in port binding: {host.host_ip}")


def is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= 65535


def is_port_range(text: str) -> bool:
    """``8080``, ``8000-8010`` or nothing."""
    if not text:
        return True
    low, dash, high = text.partition("-")
    if not is_port(low):
        return False
    return not dash or (is_port(high) and int(low) <= int(high))


def check_restart_policy(policy: pb.RestartPolicy) -> None:
    count = policy.maximum_retry_count
    if policy.name in ("always", "unless-stopped", "no"):
        if count:
            raise InvalidArgument(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                + (" and cannot be negative" if count < 0 else "")
            )
    elif policy.name == "on-failure":
        if count < 0:
            raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    elif policy.name:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )


def check_capabilities(field: str, names: Iterable[str]) -> None:
    for name in names:
        upper = name.upper().removeprefix("CAP_")
        if upper != "ALL" and upper not in CAPABILITIES:
            raise InvalidArgument(f'invalid {field}: unknown capability: "CAP_{upper}"')


# Resources, also of an update.


def check_resources(resources: pb.Resources, *, update: bool) -> None:
    if resources.HasField("memory_swappiness") and resources.memory_swappiness == -1:
        resources.ClearField("memory_swappiness")  # what old clients send for "not given"
    check_memory(resources, update=update)
    check_cpu(resources)
    if resources.io_maximum_bandwidth:
        raise InvalidArgument(
            "invalid option: QoS maximum bandwidth configuration is not supported on linux"
        )
    if resources.io_maximum_iops:
        raise InvalidArgument(
            "invalid option: QoS maximum IOPs configuration is not supported on linux"
        )


def check_memory(resources: pb.Resources, *, update: bool) -> None:
    memory, swap = resources.memory, resources.memory_swap
    reservation = resources.memory_reservation
    if memory and memory < MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise InvalidArgument(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if not memory and swap > 0 and not update:
        raise InvalidArgument(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if resources.HasField("memory_swappiness") and not 0 <= resources.memory_swappiness <= 100:
        raise InvalidArgument(
            f"Invalid value: {resources.memory_swappiness}, valid memory swappiness range is 0-100"
        )
    if 0 < reservation < MIN_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidArgument(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )


def check_cpu(resources: pb.Resources) -> None:
    if resources.cpu_shares < 0:
        raise InvalidArgument(
            f"invalid CPU shares ({resources.cpu_shares}): value must be a positive integer"
        )
    if resources.nano_cpus > 0 and resources.cpu_period > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if resources.nano_cpus > 0 and resources.cpu_quota > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    count = os.cpu_count() or 1
    if not 0 <= resources.nano_cpus <= count * 1_000_000_000:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )
    if resources.cpu_period and not 1000 <= resources.cpu_period <= 1_000_000:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < resources.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if resources.cpu_realtime_runtime > resources.cpu_realtime_period > 0:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")
