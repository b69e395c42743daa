"""longshored: the body of ``containers/create`` and of ``update`` to lifecycle's requests.

One function for each section of the body: parse by the tables of container_fields.py, put right
what Docker puts right, check. The body is in the newest version's form already.
"""

from __future__ import annotations

from typing import Any

from common.errors import InvalidArgument
from compat_api.container_checks import (
    check_config,
    check_host_config,
    check_modes,
    check_name,
    check_resources,
    check_restart_policy,
)
from compat_api.container_fields import CONFIG, ENDPOINT, HOST_CONFIG, UPDATE
from compat_api.endpoint_checks import check_endpoint, check_sysctls, is_user_defined
from compat_api.errors import prefixed
from compat_api.mount_checks import check_mount_types
from compat_api.schema import mismatch
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb import networks_pb2

MAC_WARNING = (
    "The container-wide MacAddress field is now deprecated. "
    "It should be specified in EndpointsConfig instead."
)
VOLUME_DRIVER_WARNING = (
    "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via "
    "'mount'. Use '--mount type=volume,volume-driver=...' instead"
)
IMAGE_MOUNT_WARNING = "Image mount is an experimental feature"
HOST_PORTS_WARNING = "Published ports are discarded when using host network mode"

_CONFIG_NAMES = frozenset(field.json.lower() for field in CONFIG.fields)


def create_request(
    body: dict[str, Any], *, name: str, platform: str
) -> tuple[pb.CreateContainerRequest, list[str]]:
    """The request, and warnings for the client."""
    request = pb.CreateContainerRequest(name=name, platform=platform)
    if not any(key.lower() in _CONFIG_NAMES for key in body):
        raise InvalidArgument("config cannot be empty in order to create a container")
    parse_config(body, request.config)
    host = request.host_config
    HOST_CONFIG.parse(body.get("HostConfig") or {}, host, ".HostConfig")
    parse_endpoints(body.get("NetworkingConfig") or {}, request)
    host.network_mode = normal_network_mode(host.network_mode)
    check_name(name)
    check_modes(request.config, host)
    check_mount_types(host.mounts)
    host.resources.kernel_memory = 0  # gone since 1.42; the older versions' value has no effect
    if host.resources.pids_limit <= 0:
        host.resources.ClearField("pids_limit")
    warnings = move_mac_address(request)
    check_sysctls(host)
    if not host.restart_policy.name:
        host.restart_policy.name = "no"
    check_config(request.config)
    check_resources(host.resources, update=False)
    check_host_config(host)
    for endpoint in request.endpoints:
        with prefixed(f"invalid config for network {endpoint.network}"):
            check_endpoint(endpoint.network, endpoint)
    return request, section_warnings(host) + warnings


def parse_config(body: dict[str, Any], config: pb.Config) -> None:
    """The fields of Config lie at the top of the body, beside the other sections."""
    CONFIG.parse(body, config, "")


def parse_endpoints(networking: dict[str, Any], request: pb.CreateContainerRequest) -> None:
    if type(networking) is not dict:
        raise mismatch(networking, ".NetworkingConfig", "network.NetworkingConfig")
    endpoints = networking.get("EndpointsConfig") or {}
    where = ".NetworkingConfig.EndpointsConfig"
    if type(endpoints) is not dict:
        raise mismatch(endpoints, where, "map[string]*network.EndpointSettings")
    for network, settings in endpoints.items():
        endpoint = request.endpoints.add(network=normal_network_mode(network))
        ENDPOINT.parse(settings or {}, endpoint, f"{where}.{network}")


def normal_network_mode(mode: str) -> str:
    return "bridge" if mode in ("", "default") else mode


def move_mac_address(request: pb.CreateContainerRequest) -> list[str]:
    """The container's own MAC address, a legacy, becomes that of its main network's endpoint."""
    address = request.config.mac_address
    if not address:
        return []
    mode = request.host_config.network_mode
    if mode == "bridge" or is_user_defined(mode):
        endpoint = main_endpoint(
            request, "unable to migrate container-wide MAC address to a specific network: "
        )
        if endpoint.mac_address and endpoint.mac_address != address:
            raise InvalidArgument(
                "the container-wide MAC address must match the endpoint-specific MAC address for "
                "the main network, or be left empty"
            )
        endpoint.mac_address = address
    request.config.mac_address = ""
    return [MAC_WARNING]


def main_endpoint(
    request: pb.CreateContainerRequest, failure: str
) -> networks_pb2.EndpointSettings:
    """The endpoint on the network of the network mode, made if no endpoint was given at all."""
    mode = request.host_config.network_mode
    if not request.endpoints:
        return request.endpoints.add(network=mode)
    for endpoint in request.endpoints:
        if endpoint.network == mode:
            return endpoint
    raise InvalidArgument(
        f"{failure}HostConfig.NetworkMode must match the identity of a network in "
        "NetworkSettings.Networks"
    )


def section_warnings(host: pb.HostConfig) -> list[str]:
    warnings = [IMAGE_MOUNT_WARNING for mount in host.mounts if mount.type == "image"]
    if host.network_mode == "host" and host.port_bindings:
        warnings.append(HOST_PORTS_WARNING)
    if host.volume_driver and any(
        mount.type == "volume" and not mount.volume.driver for mount in host.mounts
    ):
        warnings.append(VOLUME_DRIVER_WARNING)
    return warnings


def update_request(body: dict[str, Any], ref: str) -> pb.UpdateRequest:
    request = pb.UpdateRequest(ref=ref)
    UPDATE.parse(body, request, "UpdateConfig")
    resources = request.resources
    resources.kernel_memory = 0
    if resources.HasField("pids_limit") and resources.pids_limit < 0:
        resources.pids_limit = 0
    check_resources(resources, update=True)
    check_restart_policy(request.restart_policy)
    return request
