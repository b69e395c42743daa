"""Library of lifecycle: which requests for networks and endpoints are valid, in Docker's words.

Pure functions; the texts and the kinds of errors are those of Docker Engine 28.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from common.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    NotSupported,
    PermissionDenied,
    Unavailable,
)
from lifecycle.network_records import EndpointRequest, IpamConfig, NetworkRecord, NetworkRequest
from networking.firewall import INTERFACE_NAME

PREDEFINED = ("bridge", "host", "none")
RESERVED = (*PREDEFINED, "default")
BRIDGE_NAME = "com.docker.network.bridge.name"
ENABLE_ICC = "com.docker.network.bridge.enable_icc"
ENABLE_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv4"
MTU = "com.docker.network.driver.mtu"
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
INTERFACE_NAME_OPTION = "com.docker.network.endpoint.ifname"

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
# A dot separates a sysctl's parts, as in net.ipv4.conf.IFNAME.log_martians=1
_SYSCTL = re.compile(r"(net\.(?:ipv4|ipv6|mpls)\.[a-z]+\.IFNAME\.[a-z0-9_.]+)=([^,]*)")


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The driver options that this engine acts on."""

    bridge: str
    icc: bool
    masquerade: bool
    host_binding: str
    mtu: int
    interface_prefix: str


def bridge_options(options: Mapping[str, str], default_mtu: int) -> BridgeOptions:
    mode = options.get(GATEWAY_MODE, "nat")
    if mode not in ("", "nat"):
        raise NotSupported(f"gateway mode {mode} is not supported")
    return BridgeOptions(
        bridge=_interface(options.get(BRIDGE_NAME, "")),
        icc=_boolean(options, ENABLE_ICC),
        masquerade=_boolean(options, ENABLE_MASQUERADE),
        host_binding=_host_binding(options.get(HOST_BINDING, "")),
        mtu=_mtu(options.get(MTU, ""), default_mtu),
        interface_prefix=_interface(options.get(INTERFACE_PREFIX, "")) or "eth",
    )


def check_network(request: NetworkRequest, taken_names: Iterable[str]) -> None:
    """Everything that can be said without looking at other networks' addresses."""
    if not request.name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if request.name in RESERVED:
        raise PermissionDenied(f"operation is not permitted on predefined {request.name} network ")
    if request.name in taken_names:
        raise Conflict(f"network with name {request.name} already exists")
    if request.scope == "swarm":
        raise PermissionDenied("cannot create a swarm scoped network when swarm is not active")
    if request.ingress:
        raise PermissionDenied("Ingress network can only be global scope network")
    _check_driver(request)
    if not request.enable_ipv4 and not request.enable_ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    if request.enable_ipv6:
        raise NotSupported("IPv6 networks are not supported")
    check_ipam(request.ipam)


def _check_driver(request: NetworkRequest) -> None:
    if request.config_from:
        raise NotFound(f'configuration network "{request.config_from}" does not exist')
    if request.config_only:
        raise NotSupported("configuration-only networks are not supported")
    if request.driver in ("host", "null"):
        raise PermissionDenied(f'only one instance of "{request.driver}" network is allowed')
    if request.driver == "overlay":
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again."
        )
    if request.driver not in ("", "bridge"):
        raise NotFound(f'plugin "{request.driver}" not found')
    if request.ipam_driver not in ("", "default"):
        raise NotFound(f'plugin "{request.ipam_driver}" not found')


def check_ipam(configs: Iterable[IpamConfig]) -> None:
    problems: list[str] = []
    for config in configs:
        problems += _ipam_problems(config)
    if problems:
        raise InvalidArgument(joined("invalid network config:", problems))


def joined(head: str, problems: list[str]) -> str:
    """As Go's multi-errors are written: a list only where there is more than one."""
    if len(problems) == 1:
        return f"{head}\n{problems[0]}"
    return head + "".join(f"\n* {problem}" for problem in problems)


def _ipam_problems(config: IpamConfig) -> list[str]:
    try:
        subnet = ip_network(config.subnet, strict=False)
    except ValueError:
        return [f"invalid subnet {config.subnet}: invalid CIDR block notation"]
    problems = []
    if "/" not in config.subnet:
        problems.append(f"invalid subnet {config.subnet}: invalid CIDR block notation")
    elif str(ip_address(config.subnet.split("/")[0])) != str(subnet.network_address):
        problems.append(f"invalid subnet {config.subnet}: it should be {subnet}")
    problems += _range_problems(config, str(subnet))
    addresses = [("gateway", config.gateway)] if config.gateway else []
    addresses += [(f"auxiliary address {name}", value) for name, value in config.auxiliary.items()]
    for what, value in addresses:
        shown = f"invalid {what} {value}" if what == "gateway" else f"invalid {what}"
        try:
            if ip_address(value) not in subnet:
                problems.append(f"{shown}: parent subnet {subnet} doesn't contain this address")
        except ValueError:
            problems.append(f"{shown}: invalid address")
    return problems


def _range_problems(config: IpamConfig, subnet: str) -> list[str]:
    if not config.ip_range:
        return []
    prefix, parent = f"invalid ip-range {config.ip_range}: ", ip_network(subnet)
    try:
        wanted = ip_network(config.ip_range, strict=False)
        first = ip_address(config.ip_range.split("/")[0])
    except ValueError:
        return [prefix + "invalid CIDR block notation"]
    problems = []
    if first != wanted.network_address:
        problems.append(f"{prefix}it should be {wanted}")
    if wanted.prefixlen < parent.prefixlen:
        problems.append(f"{prefix}CIDR block is bigger than its parent subnet {subnet}")
    elif wanted.network_address not in parent:
        problems.append(f"{prefix}parent subnet {subnet} doesn't contain ip-range")
    return problems


def check_endpoint(network: NetworkRecord, request: EndpointRequest) -> None:
    """A container's create puts ``invalid config for network X: `` before the error's text."""
    if request.mac and not _MAC.fullmatch(request.mac):
        raise InvalidArgument(f"invalid MAC address {request.mac}")
    problems = []
    valid = True
    if request.ipv4:
        try:
            valid = ip_address(request.ipv4).version == 4
        except ValueError:
            valid = False
        if not valid:
            problems.append(f"invalid IPv4 address: {request.ipv4}")
        if network.predefined:
            problems.append("user specified IP address is supported on user defined networks only")
    if request.aliases and network.predefined:
        problems.append(
            "network-scoped alias is supported only for containers in user defined networks"
        )
    if request.ipv4:
        problems += _subnet_problems(network, request.ipv4 if valid else "")
    if problems:
        raise InvalidArgument(joined("invalid endpoint settings:", problems))
    endpoint_sysctls(request.driver_opts)


def _subnet_problems(network: NetworkRecord, address: str) -> list[str]:
    if not network.user_subnet:
        return [
            "user specified IP address is supported only when connecting to networks with user "
            "configured subnets"
        ]
    if address and ip_address(address) not in ip_network(network.subnet):
        return [f"no configured subnet or ip-range contain the IP address {address}"]
    return []


def endpoint_sysctls(driver_opts: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for entry in filter(None, driver_opts.get(ENDPOINT_SYSCTLS, "").split(",")):
        match = _SYSCTL.fullmatch(entry)
        if not match or ".." in match[1]:
            raise InvalidArgument(f"invalid endpoint sysctl {entry!r}: not net.*.*.IFNAME.*=value")
        found[match[1]] = match[2]
    return found


def _boolean(options: Mapping[str, str], key: str) -> bool:
    value = options.get(key, "true")
    if value not in (*_TRUE, *_FALSE):
        raise InvalidArgument(
            f'failed to parse {key} value: {value} (strconv.ParseBool: parsing "{value}": '
            "invalid syntax)"
        )
    return value in _TRUE


def _mtu(value: str, default: int) -> int:
    if not value:
        return default
    if not re.fullmatch(r"[+-]?[0-9]+", value):
        raise InvalidArgument(
            f'failed to parse {MTU} value: {value} (strconv.Atoi: parsing "{value}": '
            "invalid syntax)"
        )
    number = int(value)
    if number < 0 or number > 65535:
        raise InvalidArgument(f"invalid MTU number: {number}")
    return number or default


def _host_binding(value: str) -> str:
    if not value:
        return ""
    try:
        return str(ip_address(value))
    except ValueError:
        raise InvalidArgument(f"failed to parse {HOST_BINDING} value: {value} (nil ip)") from None


def _interface(name: str) -> str:
    """Stricter than the kernel: the name is written into firewall commands."""
    if name and not INTERFACE_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid interface name {name!r}")
    return name
