"""Library of lifecycle: which requests for networks and endpoints are valid, in Docker's words.

Pure functions; the texts and the kinds of errors are those of Docker Engine 28.5.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from common.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
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
HOST_BINDING6 = "com.docker.network.bridge.host_binding_ipv6"
GATEWAY_MODES = {
    4: "com.docker.network.bridge.gateway_mode_ipv4",
    6: "com.docker.network.bridge.gateway_mode_ipv6",
}
INHIBIT_IPV4 = "com.docker.network.bridge.inhibit_ipv4"
TRUSTED_INTERFACES = "com.docker.network.bridge.trusted_host_interfaces"
HOST_ADDRESSES = {4: "com.docker.network.host_ipv4", 6: "com.docker.network.host_ipv6"}
ENABLE_IPV4 = "com.docker.network.enable_ipv4"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"
MTU = "com.docker.network.driver.mtu"
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
INTERFACE_NAME_OPTION = "com.docker.network.endpoint.ifname"

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
# A dot separates a sysctl's parts, as in net.ipv4.conf.IFNAME.log_martians=1
_SYSCTL = re.compile(r"(net\.(?:ipv4|ipv6|mpls)\.[a-z]+\.)(?:IFNAME|ifname)(\.[a-z0-9_.]+)=([^,]*)")


KINDS = ("builtin", "custom")
MODES = ("nat", "nat-unprotected", "routed", "isolated")


def check_filters(filters: Mapping[str, Sequence[str]]) -> None:
    dangling = filters.get("dangling")
    if dangling is not None and (
        len(dangling) != 1 or dangling[0].lower() not in ("true", "false", "1", "0")
    ):
        raise InvalidArgument(
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
        )
    for kind in filters.get("type", ()):
        if kind not in KINDS:
            # Unclassified in Docker, hence a 500.
            raise InternalError(f"invalid filter: 'type'='{kind}'")


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The driver options that this engine acts on."""

    bridge: str
    icc: bool
    masquerade: bool
    host_binding: str
    mtu: int
    interface_prefix: str
    mode4: str
    mode6: str
    inhibit_ipv4: bool
    host_ips: tuple[str, ...]
    trusted: tuple[str, ...]


def bridge_options(options: Mapping[str, str], default_mtu: int) -> BridgeOptions:
    return BridgeOptions(
        bridge=_interface(options.get(BRIDGE_NAME, "")),
        icc=boolean(options, ENABLE_ICC),
        masquerade=boolean(options, ENABLE_MASQUERADE),
        host_binding=_host_binding(options.get(HOST_BINDING, "")),
        mtu=mtu(options, default_mtu),
        interface_prefix=_interface(options.get(INTERFACE_PREFIX, "")) or "eth",
        mode4=_mode(options, 4),
        mode6=_mode(options, 6),
        inhibit_ipv4=boolean(options, INHIBIT_IPV4, default="false"),
        host_ips=tuple(filter(None, (_host_ip(options, 4), _host_ip(options, 6)))),
        trusted=tuple(
            _interface(name) for name in options.get(TRUSTED_INTERFACES, "").split(":") if name
        ),
    )


def _mode(options: Mapping[str, str], version: int) -> str:
    mode = options.get(GATEWAY_MODES[version], "") or "nat"
    if mode not in MODES:
        raise InvalidArgument(f"unknown gateway mode {mode}")
    return mode


def _host_ip(options: Mapping[str, str], version: int) -> str:
    value = options.get(HOST_ADDRESSES[version], "")
    if not value:
        return ""
    try:
        address = ip_address(value)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise InvalidArgument(f"{HOST_ADDRESSES[version]}: {value} is not an IPv{version} address")
    return str(address)


def check_network(
    request: NetworkRequest, taken_names: Iterable[str], plugins: Collection[str] = ()
) -> None:
    """Everything that can be said without looking at other networks' addresses.

    Whether ``plugins`` are drivers is seen elsewhere.
    """
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
    _check_driver(request, plugins)
    if request.config_only:
        check_ipam(request.ipam)
        return
    if not request.enable_ipv4 and not request.enable_ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    check_ipam(request.ipam)
    _check_modes(request)


def _check_driver(request: NetworkRequest, plugins: Collection[str]) -> None:
    if request.config_only and request.config_from:
        raise PermissionDenied("a configuration network cannot depend on another configuration")
    if request.config_only:
        return  # the driver does not matter
    if request.driver in ("host", "null"):
        raise PermissionDenied(f'only one instance of "{request.driver}" network is allowed')
    if request.driver == "overlay":
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to '
            "connect this node to swarm and try again."
        )
    if request.driver not in ("", "bridge", "macvlan", "ipvlan", *plugins):
        raise NotFound(f'plugin "{request.driver}" not found')
    if request.ipam_driver == "null" and request.driver not in plugins:
        raise InvalidArgument("ipv4 pool is empty")
    if request.ipam_driver not in ("", "default", "null", *plugins):
        raise NotFound(f'plugin "{request.ipam_driver}" not found')


def _check_modes(request: NetworkRequest) -> None:
    """Docker's rules of bridge networks' gateway modes."""
    if request.driver not in ("", "bridge") or request.config_only:
        return
    for version in (4, 6):
        if _mode(request.options, version) == "isolated" and not request.internal:
            raise InvalidArgument(
                "gateway mode 'isolated' can only be used for an internal network"
            )
    bridge_options(request.options, 0)


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
    if network.predefined and (request.ipv4 or request.ipv6):
        problems.append("user specified IP address is supported on user defined networks only")
    if network.predefined and request.aliases:
        problems.append(
            "network-scoped alias is supported only for containers in user defined networks"
        )
    for value, version in ((request.ipv4, 4), (request.ipv6, 6)):
        if value and not _is_address(value, version):
            problems.append(f"invalid IPv{version} address: {value}")
    problems += [
        f"invalid link-local IP address: {value}"
        for value in request.link_local
        if not _is_address(value)
    ]
    for value, version in ((request.ipv4, 4), (request.ipv6, 6)):
        if value:
            problems += _subnet_problems(network, value, version)
    if problems:
        raise InvalidArgument(joined("invalid endpoint settings:", problems))
    endpoint_sysctls(request.driver_opts)
    _interface(request.driver_opts.get(INTERFACE_NAME_OPTION, ""))


def _is_address(value: str, version: int = 0) -> bool:
    try:
        return ip_address(value).version == (version or ip_address(value).version)
    except ValueError:
        return False


def _subnet_problems(network: NetworkRecord, address: str, version: int) -> list[str]:
    configured = [
        config.subnet for config in network.ipam if (6 if ":" in config.subnet else 4) == version
    ]
    if not network.user_defined or version in network.automatic or not configured:
        return [
            "user specified IP address is supported only when connecting to networks with user "
            "configured subnets"
        ]
    if _is_address(address) and not any(
        ip_address(address) in ip_network(subnet) for subnet in configured
    ):
        return [f"no configured subnet or ip-range contain the IP address {address}"]
    return []


def endpoint_sysctls(driver_opts: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for entry in filter(None, driver_opts.get(ENDPOINT_SYSCTLS, "").split(",")):
        match = _SYSCTL.fullmatch(entry)  # the CLI makes letters small
        if not match or ".." in entry:
            raise InvalidArgument(
                "invalid endpoint settings:\n"
                f"unrecognised network interface sysctl '{entry}'; represent 'net.X.Y.ethN.Z=V' as "
                "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        found[f"{match[1]}IFNAME{match[2]}"] = match[3]
    return found


def boolean(options: Mapping[str, str], key: str, default: str = "true") -> bool:
    value = options.get(key, default)
    if value not in (*_TRUE, *_FALSE):
        raise InvalidArgument(
            f'failed to parse {key} value: {value} (strconv.ParseBool: parsing "{value}": '
            "invalid syntax)"
        )
    return value in _TRUE


def mtu(options: Mapping[str, str], default: int) -> int:
    value = options.get(MTU, "")
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
