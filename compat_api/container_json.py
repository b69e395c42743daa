"""longshored: lifecycle's containers and execs as Docker's JSON; pure functions.

Bodies are those of the newest version of the API; versions/ makes older ones of them. Docker's
state booleans and its status text are derived here from lifecycle's one status.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from typing import Any

from common.times import rfc3339_nano
from compat_api.container_fields import CONFIG, ENDPOINT, HOST_CONFIG, render_ports
from compat_api.detach_keys import parse_detach_keys
from compat_api.times import human_duration
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb import networks_pb2

STATUS_NAMES = {
    pb.CREATED: "created",
    pb.RUNNING: "running",
    pb.PAUSED: "paused",
    pb.RESTARTING: "restarting",
    pb.REMOVING: "removing",
    pb.EXITED: "exited",
    pb.DEAD: "dead",
}

# Docker counts a container that waits for its restart as running.
RUNNING = frozenset((pb.RUNNING, pb.PAUSED, pb.RESTARTING))


def inspect_body(container: pb.Container) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Id": container.id,
        "Created": rfc3339_nano(container.created),
        "Path": container.path,
        "Args": list(container.args),
        "State": state_body(container.state),
        "Image": container.image_id,
        "ResolvConfPath": container.resolv_conf_path,
        "HostnamePath": container.hostname_path,
        "HostsPath": container.hosts_path,
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": container.driver,
        "Platform": container.platform,
        "MountLabel": container.mount_label,
        "ProcessLabel": container.process_label,
        "AppArmorProfile": container.apparmor_profile,
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": HOST_CONFIG.render(container.host_config),
        "GraphDriver": {"Data": dict(container.snapshot) or None, "Name": container.driver},
        "Mounts": [mount_body(mount) for mount in container.mounts],
        "Config": config_body(container),
        "NetworkSettings": network_settings_body(container),
    }
    body.update(size_fields(container))
    return body


def config_body(container: pb.Container) -> dict[str, Any]:
    body = CONFIG.render(container.config)
    for endpoint in container.endpoints:
        # The address that was asked for on the main network also has its old place.
        if endpoint.mac_address and endpoint.network == container.host_config.network_mode:
            body.setdefault("MacAddress", endpoint.mac_address)
    return body


def state_body(state: pb.State) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Status": STATUS_NAMES[state.status],
        "Running": state.status in RUNNING,
        "Paused": state.status == pb.PAUSED,
        "Restarting": state.status == pb.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == pb.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339_nano(state.started_at),
        "FinishedAt": rfc3339_nano(state.finished_at),
    }
    if state.HasField("health"):
        body["Health"] = health_body(state.health)
    return body


def health_body(health: pb.Health) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": rfc3339_nano(result.start),
                "End": rfc3339_nano(result.end),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def size_fields(container: pb.Container) -> dict[str, int]:
    sizes = {}
    if container.HasField("size_rw"):
        sizes["SizeRw"] = container.size_rw
    if container.HasField("size_root_fs"):
        sizes["SizeRootFs"] = container.size_root_fs
    return sizes


def mount_body(mount: pb.MountPoint) -> dict[str, Any]:
    body: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        body["Name"] = mount.name
    body["Source"] = mount.source
    body["Destination"] = mount.destination
    if mount.driver:
        body["Driver"] = mount.driver
    body["Mode"] = mount.mode
    body["RW"] = mount.read_write
    body["Propagation"] = mount.propagation
    return body


# Networks.


def network_settings_body(container: pb.Container) -> dict[str, Any]:
    # The fields beside Networks are those of the default bridge, and legacy.
    legacy = networks_pb2.EndpointSettings()
    for endpoint in container.endpoints:
        if endpoint.network == "bridge":
            legacy = endpoint
    return {
        "Bridge": "",
        "SandboxID": container.sandbox_id,
        "SandboxKey": container.sandbox_key,
        "Ports": render_ports(container.ports),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": legacy.endpoint_id,
        "Gateway": legacy.gateway,
        "GlobalIPv6Address": legacy.ipv6_address,
        "GlobalIPv6PrefixLen": legacy.ipv6_prefix_len,
        "IPAddress": legacy.ip_address,
        "IPPrefixLen": legacy.ip_prefix_len,
        "IPv6Gateway": legacy.ipv6_gateway,
        "MacAddress": legacy.assigned_mac or legacy.mac_address,
        "Networks": {item.network: endpoint_body(item) for item in container.endpoints},
    }


def endpoint_body(endpoint: networks_pb2.EndpointSettings) -> dict[str, Any]:
    return {
        **ENDPOINT.render(endpoint),
        "MacAddress": endpoint.assigned_mac or endpoint.mac_address,
        **endpoint_operation(endpoint),
        "DNSNames": list(endpoint.dns_names) or None,
    }


def endpoint_operation(endpoint: networks_pb2.EndpointSettings) -> dict[str, Any]:
    """What the endpoint got from the network."""
    return {
        "NetworkID": endpoint.network_id,
        "EndpointID": endpoint.endpoint_id,
        "Gateway": endpoint.gateway,
        "IPAddress": endpoint.ip_address,
        "IPPrefixLen": endpoint.ip_prefix_len,
        "IPv6Gateway": endpoint.ipv6_gateway,
        "GlobalIPv6Address": endpoint.ipv6_address,
        "GlobalIPv6PrefixLen": endpoint.ipv6_prefix_len,
        "MacAddress": endpoint.assigned_mac or endpoint.mac_address,
    }


def listed_endpoint_body(endpoint: networks_pb2.EndpointSettings) -> dict[str, Any]:
    """An endpoint in a list, which has less than in an inspect."""
    ipam = None
    if endpoint.has_ipam_config:
        addresses = (
            ("IPv4Address", endpoint.ipv4_request),
            ("IPv6Address", endpoint.ipv6_request),
        )
        ipam = {key: value for key, value in addresses if value}
    return {
        "IPAMConfig": ipam,
        "Links": None,
        "Aliases": None,
        "DriverOpts": None,
        "GwPriority": endpoint.gw_priority,
        **endpoint_operation(endpoint),
        "DNSNames": None,
    }


# Lists.


def list_body(containers: Iterable[pb.Container]) -> list[dict[str, Any]]:
    now = time.time_ns()
    return [summary_body(container, now) for container in containers]


def summary_body(container: pb.Container, now: int) -> dict[str, Any]:
    host_config: dict[str, Any] = {"NetworkMode": container.host_config.network_mode}
    if container.host_config.annotations:
        host_config["Annotations"] = dict(container.host_config.annotations)
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"] if container.name else [],
        "Image": container.image_ref or container.config.image,
        "ImageID": container.image_id,
        "Command": command_text(container),
        "Created": container.created // 1_000_000_000,
        "Ports": listed_ports(container.ports),
        **{name: size for name, size in size_fields(container).items() if size},
        "Labels": dict(container.config.labels),
        "State": STATUS_NAMES[container.state.status],
        "Status": status_text(container.state, now),
        "HostConfig": host_config,
        "NetworkSettings": {
            "Networks": {item.network: listed_endpoint_body(item) for item in container.endpoints}
        },
        "Mounts": [listed_mount_body(mount) for mount in container.mounts],
    }


def listed_mount_body(mount: pb.MountPoint) -> dict[str, Any]:
    """A mount in a list, which does not tell where a volume is."""
    body = mount_body(mount)
    if mount.type == "volume":
        body["Source"] = ""
    return body


def command_text(container: pb.Container) -> str:
    arguments = [f"'{item}'" if " " in item else item for item in container.args]
    return " ".join((container.path, *arguments))


def listed_ports(bindings: Iterable[pb.PortBinding]) -> list[dict[str, Any]]:
    ports: list[dict[str, Any]] = []
    for binding in bindings:
        number, _, protocol = binding.port.partition("/")
        entry = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        if not binding.host:
            ports.append(entry)
        ports += [
            {"IP": host.host_ip, "PublicPort": int(host.host_port), **entry}
            for host in binding.host
        ]
    return ports


def status_text(state: pb.State, now: int) -> str:
    """The STATUS column of ``docker ps``."""
    if state.status == pb.RESTARTING:
        return f"Restarting ({state.exit_code}) {human_duration(now - state.finished_at)} ago"
    if state.status in RUNNING:
        text = f"Up {human_duration(now - state.started_at)}"
        if state.status == pb.PAUSED:
            return f"{text} (Paused)"
        health = state.health.status if state.HasField("health") else "none"
        if health == "starting":
            return f"{text} (health: starting)"
        return text if health in ("none", "") else f"{text} ({health})"
    if state.status == pb.REMOVING:
        return "Removal In Progress"
    if state.status == pb.DEAD:
        return "Dead"
    if state.status == pb.CREATED or not state.started_at:
        return "Created"
    if not state.finished_at:
        return ""
    return f"Exited ({state.exit_code}) {human_duration(now - state.finished_at)} ago"


# Execs.


def exec_body(found: pb.Exec) -> dict[str, Any]:
    request = found.request
    process: dict[str, Any] = {
        "tty": request.tty,
        "entrypoint": request.cmd[0] if request.cmd else "",
        "arguments": list(request.cmd[1:]),
        "privileged": request.privileged,
    }
    if request.user:
        process["user"] = request.user
    # Bytes in Go, hence base64.
    keys = parse_detach_keys(request.detach_keys) if request.detach_keys else b""
    return {
        "ID": found.id,
        "Running": found.running,
        "ExitCode": found.exit_code if found.HasField("exit_code") else None,
        "ProcessConfig": process,
        "OpenStdin": request.attach_stdin,
        "OpenStderr": request.attach_stderr,
        "OpenStdout": request.attach_stdout,
        "CanRemove": False,
        "ContainerID": found.container_id,
        "DetachKeys": base64.b64encode(keys).decode(),
        "Pid": found.pid,
    }
