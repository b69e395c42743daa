"""longshored: what is wrong with a container's wishes for its networks, by their text.

Called at create and by ``networks/{id}/connect``. Whether an address fits the network's subnets is
lifecycle's to see.
"""

from __future__ import annotations

import ipaddress
import re

from common.errors import InternalError, InvalidArgument
from compat_api.mount_checks import quoted
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb import networks_pb2

ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
NAMED_NETWORK_MODES = frozenset(("", "default", "bridge", "host", "none", "container"))


def is_user_defined(network_mode: str) -> bool:
    """The mode is a network's name, and not one of the built-in modes."""
    return network_mode.partition(":")[0] not in NAMED_NETWORK_MODES


def check_endpoint(network: str, endpoint: networks_pb2.EndpointSettings) -> None:
    """What a client asks of one network; all faults are told at once."""
    faults = []
    if not is_user_defined(network):
        if endpoint.ipv4_request or endpoint.ipv6_request:
            faults.append("user specified IP address is supported on user defined networks only")
            faults.append(
                "user specified IP address is supported only when connecting to networks with user "
                "configured subnets"
            )
        if endpoint.aliases.values:
            faults.append(
                "network-scoped alias is supported only for containers in user defined networks"
            )
    if endpoint.ipv4_request and not is_usable(endpoint.ipv4_request, version=4):
        faults.append(f"invalid IPv4 address: {endpoint.ipv4_request}")
    if endpoint.ipv6_request and not is_usable(endpoint.ipv6_request, version=6):
        faults.append(f"invalid IPv6 address: {endpoint.ipv6_request}")
    faults += [
        f"invalid link-local IP address: {address}"
        for address in endpoint.link_local.values
        if not (is_usable(address, version=4) or is_usable(address, version=6))
    ]
    if endpoint.mac_address and not is_mac(endpoint.mac_address):
        raise InvalidArgument(f"invalid MAC address {endpoint.mac_address}")
    sysctls = endpoint.driver_opts.get(ENDPOINT_SYSCTLS)
    if sysctls is not None:
        faults += [
            f"unrecognised network interface sysctl '{sysctl}'; represent 'net.X.Y.ethN.Z=V' as "
            "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            for sysctl in sysctls.split(",")
            if not is_endpoint_sysctl(sysctl)
        ]
    if faults:
        if len(faults) > 1:
            faults = [f"* {fault}" for fault in faults]
        raise InvalidArgument("invalid endpoint settings:\n" + "\n".join(faults))


def is_endpoint_sysctl(text: str) -> bool:
    parts = text.split(".", 4)
    return (
        len(parts) == 5
        and parts[1] in ("ipv4", "ipv6", "mpls")
        and parts[3] in ("IFNAME", "ifname")
    )


def check_sysctls(host: pb.HostConfig) -> None:
    """Settings of one interface cannot be made before the interface is there."""
    if host.network_mode == "host" or host.network_mode.startswith("container:"):
        return
    for name in host.sysctls:
        parts = name.split(".", 4)
        if len(parts) == 5 and parts[0] == "net" and parts[3].startswith("eth"):
            # Docker does not classify this error either.
            raise InternalError(
                f"interface specific sysctl setting {quoted(name)} must be supplied using driver "
                f"option '{ENDPOINT_SYSCTLS}'"
            )


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_usable(text: str, *, version: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == version and not address.is_unspecified


def is_mac(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", text) is not None
