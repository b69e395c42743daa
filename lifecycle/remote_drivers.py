"""Library of lifecycle: network and IPAM drivers that are plugins, by libnetwork's remote protocol.

What each call says and answers stands here, and nothing of when it is made: remote_networks.py and
remote_endpoints.py have that. https://github.com/moby/moby/tree/master/daemon/libnetwork/docs has
the protocol, in remote.md and ipam.md; what they leave open is as Docker Engine 28.5 does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from common.errors import EngineError, InternalError, Unavailable
from lifecycle.plugins import OtherPlugin, Plugin, PluginRefused, Plugins

NETWORK, IPAM = "NetworkDriver", "IpamDriver"
REQUEST_POOL, RELEASE_ADDRESS = f"{IPAM}.RequestPool", f"{IPAM}.ReleaseAddress"
LOCAL_SPACE = "LocalDefault"  # the address space of the built-in IPAM driver
GENERIC_OPTIONS = "com.docker.network.generic"
INTERNAL_OPTION = "com.docker.network.internal"
GATEWAY_ADDRESS = "com.docker.network.gateway"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A call that acquires something, and the one that gives it back."""

    plugin: str
    interface: str
    method: str
    body: Json
    undo: str = ""  # none: only the answer says what is to be given back
    undo_body: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a driver says of an endpoint that is to get into its container."""

    source: str = ""  # the interface on the host; none: the container gets none
    prefix: str = ""  # of its name inside
    gateway: str = ""
    gateway6: str = ""
    routes: tuple[tuple[str, str], ...] = ()  # destination, next hop or ""
    wants_gateway_network: bool = True

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> Joined:
        names = answer.get("InterfaceName") or {}
        return cls(
            source=str(names.get("SrcName") or ""),
            prefix=str(names.get("DstPrefix") or ""),
            gateway=_gateway(answer, "Gateway"),
            gateway6=_gateway(answer, "GatewayIPv6"),
            routes=tuple(_route(item) for item in answer.get("StaticRoutes") or ()),
            wants_gateway_network=not answer.get("DisableGatewayService"),
        )


async def find(plugins: Plugins, name: str, interface: str) -> Plugin:
    """The driver of a new network."""
    try:
        return await plugins.get(name, interface)
    except OtherPlugin as error:
        raise InternalError(
            f'legacy plugin: Plugin does not implement the requested driver: plugin="{name}", '
            f'requested implementation="{interface}"'
        ) from error


async def network_driver(plugins: Plugins, name: str) -> Plugin:
    """One that this engine can serve."""
    plugin = await find(plugins, name, NETWORK)
    try:
        found = await _capabilities(plugin, NETWORK)
        scopes = (found.get("Scope"), found.get("ConnectivityScope") or found.get("Scope"))
        for scope in scopes:
            if scope not in ("local", "global"):
                raise InternalError(
                    f"invalid capability: expecting 'local' or 'global', got {scope or ''}"
                )
    except EngineError as error:
        raise InternalError(f"could not resolve driver {name} in registry: {error}") from error
    if scopes[0] == "global":
        raise Unavailable(
            f'the networks of the driver "{name}" are of a swarm\'s scope, and this node is not a '
            "swarm manager"
        )
    return plugin


async def skips_gateways(plugin: Plugin, options: Json) -> set[int]:
    """The families of which a network with these options needs no gateway."""
    if not (await _capabilities(plugin, NETWORK)).get("GwAllocChecker"):
        return set()
    answer = await plugin.call(f"{NETWORK}.GwAllocCheck", {"Options": options})
    return {version for version in (4, 6) if answer.get(f"SkipIPv{version}")}


async def ipam_requirements(plugin: Plugin) -> tuple[bool, bool]:
    """Whether it wants MAC addresses, and to hear everything anew; old plugins cannot say."""
    try:
        found = await _capabilities(plugin, IPAM)
    except PluginRefused:
        return False, False
    return bool(found.get("RequiresMACAddress")), bool(found.get("RequiresRequestReplay"))


async def address_space(plugin: Plugin) -> str:
    answer = await plugin.call(f"{IPAM}.GetDefaultAddressSpaces")
    return str(answer.get("LocalDefaultAddressSpace") or "")


async def _capabilities(plugin: Plugin, interface: str) -> Json:
    method = f"{interface}.GetCapabilities"
    if method not in plugin.capabilities:
        plugin.capabilities[method] = await plugin.call(method)
    return plugin.capabilities[method]


def network_options(*, ipv4: bool, ipv6: bool, internal: bool, options: Mapping[str, str]) -> Json:
    found: Json = {
        "com.docker.network.enable_ipv4": ipv4,
        "com.docker.network.enable_ipv6": ipv6,
        GENERIC_OPTIONS: dict(options),
    }
    return {**found, INTERNAL_OPTION: True} if internal else found


def create_network(
    driver: str, network_id: str, options: Json, ipv4: Sequence[Json], ipv6: Sequence[Json]
) -> Step:
    body = {"NetworkID": network_id, "Options": options, "IPv4Data": ipv4, "IPv6Data": ipv6}
    return _step(driver, "CreateNetwork", body, "DeleteNetwork", {"NetworkID": network_id})


def create_endpoint(driver: str, ids: Json, interface: Json, options: Json) -> Step:
    body = {**ids, "Interface": interface, "Options": options}
    return _step(driver, "CreateEndpoint", body, "DeleteEndpoint", ids)


def join(driver: str, ids: Json, sandbox_key: str, options: Json) -> Step:
    body = {**ids, "SandboxKey": sandbox_key, "Options": options}
    return _step(driver, "Join", body, "Leave", ids)


def program(driver: str, ids: Json, options: Json) -> Step:
    body = {**ids, "Options": options}
    return _step(driver, "ProgramExternalConnectivity", body, "RevokeExternalConnectivity", ids)


def _step(driver: str, method: str, body: Json, undo: str, undo_body: Json) -> Step:
    return Step(driver, NETWORK, f"{NETWORK}.{method}", body, f"{NETWORK}.{undo}", undo_body)


def request_pool(
    driver: str,
    space: str,
    pool: str,
    sub_pool: str,
    options: Mapping[str, str] | None,
    *,
    ipv6: bool,
) -> Step:
    """Until the answer says which it is, a certain pool can only be asked for again."""
    body = {
        "AddressSpace": space,
        "Pool": pool,
        "SubPool": sub_pool,
        "Options": dict(options or {}),
        "V6": ipv6,
    }
    undo = (REQUEST_POOL, body) if pool else ("", {})
    return Step(driver, IPAM, REQUEST_POOL, body, *undo)


def release_pool(pool_id: str) -> tuple[str, Json]:
    return f"{IPAM}.ReleasePool", {"PoolID": pool_id}


def request_address(
    driver: str, pool_id: str, address: str, options: Mapping[str, str] | None
) -> Step:
    body = {"PoolID": pool_id, "Address": address, "Options": dict(options) if options else None}
    undo = release_address(pool_id, address) if address else ("", {})
    return Step(driver, IPAM, f"{IPAM}.RequestAddress", body, *undo)


def release_address(pool_id: str, address: str) -> tuple[str, Json]:
    return RELEASE_ADDRESS, {"PoolID": pool_id, "Address": address}


def pool_of(answer: Mapping[str, Any], plugin: str) -> str:
    try:
        return str(ip_network(str(answer.get("Pool") or ""), strict=False))
    except ValueError as error:
        raise InternalError(f"the plugin {plugin} gave an invalid pool: {error}") from error


def address_of(answer: Mapping[str, Any]) -> str:
    """With its prefix length."""
    value = str(answer.get("Address") or "")
    if not value:
        raise InternalError("no address returned")
    return cidr(value)


def cidr(value: str) -> str:
    try:
        if "/" not in value:
            raise ValueError(value)
        return ip_interface(value).with_prefixlen
    except ValueError:
        raise InternalError(f"invalid CIDR address: {value}") from None


def _gateway(answer: Mapping[str, Any], key: str) -> str:
    value = str(answer.get(key) or "")
    if not value:
        return ""
    try:
        return str(ip_address(value))
    except ValueError:
        raise InternalError(f'unable to parse {key} "{value}"') from None


def _route(item: Mapping[str, Any]) -> tuple[str, str]:
    """Docker looks at the next hop, and not at the type."""
    destination = cidr(str(item.get("Destination") or ""))
    hop = str(item.get("NextHop") or "")
    if hop:
        try:
            hop = str(ip_address(hop))
        except ValueError:
            raise InternalError(f"failed to parse nexthop IP {hop}") from None
    return str(ip_interface(destination).network), hop
