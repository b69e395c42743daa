"""longshored: /networks."""

from __future__ import annotations

from typing import Any

from common.errors import InvalidArgument, NotFound
from common.times import rfc3339_nano
from compat_api.container_fields import ENDPOINT
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Json, Route
from compat_api.schema import (
    Field,
    Flag,
    Map,
    Object,
    Objects,
    OptionalFlag,
    Schema,
    Text,
    mismatch,
)
from lifecycle._pb import networks_pb2 as pb

# Go's strconv.ParseBool, which the parameter "verbose" is held to.
PARSE_BOOL = frozenset(
    ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")
)

# No client sends it: versions/v1_28.py sets it for those that expect the containers in lists.
WITH_MEMBERS = "with-members"


class ConfigFrom(Field):
    """``{"Network": name}``."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not dict:
            raise mismatch(value, where, "network.ConfigReference")
        _REFERENCE.parse(value, message, where)


class Ipam(Field):
    """The IPAM object, whose fields lie flat in the message."""

    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        IPAM.parse(value, message, where)

    def render(self, message: Any) -> Any:
        return IPAM.render(message)


class Pools(Objects):
    """IPAM.Config, null if there is none."""

    __slots__ = ()

    def render(self, message: Any) -> Any:
        return super().render(message) or None


_REFERENCE = Schema("network.ConfigReference", (Text("Network", "config_from"),))

IPAM_CONFIG = Schema(
    "network.IPAMConfig",
    (
        Text("Subnet", "subnet", omit_empty=True),
        Text("IPRange", "ip_range", omit_empty=True),
        Text("Gateway", "gateway", omit_empty=True),
        Map("AuxiliaryAddresses", "auxiliary", omit_empty=True),
    ),
)

IPAM = Schema(
    "network.IPAM",
    (
        Text("Driver", "ipam_driver"),
        Map("Options", "ipam_options", presence="has_ipam_options"),
        Pools("Config", "ipam", IPAM_CONFIG),
    ),
)

CREATE = Schema(
    "network.CreateRequest",
    (
        Text("Name", "name"),
        Text("Driver", "driver"),
        Text("Scope", "scope"),
        OptionalFlag("EnableIPv4", "enable_ipv4"),
        Flag("EnableIPv6", "enable_ipv6"),
        Ipam("IPAM", "ipam"),
        Flag("Internal", "internal"),
        Flag("Attachable", "attachable"),
        Flag("Ingress", "ingress"),
        Flag("ConfigOnly", "config_only"),
        ConfigFrom("ConfigFrom", "config_from"),
        Map("Options", "options"),
        Map("Labels", "labels"),
    ),
)

CONNECT = Schema(
    "network.ConnectOptions",
    (Text("Container", "container"), Object("EndpointConfig", "settings", ENDPOINT)),
)

DISCONNECT = Schema(
    "network.DisconnectOptions", (Text("Container", "container"), Flag("Force", "force"))
)


async def list_networks(request: Request) -> Answer:
    found = await request.engine.networks.List(pb.ListNetworksRequest(filters=request.filters()))
    members = request.flag(WITH_MEMBERS)
    return Json([render(network, members=members) for network in found.networks])


async def inspect(request: Request) -> Answer:
    verbose = request.text("verbose")
    if verbose and verbose not in PARSE_BOOL:
        raise InvalidArgument(
            f'invalid value for verbose: {verbose}: strconv.ParseBool: parsing "{verbose}": '
            "invalid syntax"
        )
    network = await request.engine.networks.Get(pb.NetworkRef(ref=request.name))
    scope = request.text("scope")
    if scope and scope != network.scope:
        raise NotFound(f"network {request.name} not found")
    return Json(render(network))


async def create(request: Request) -> Answer:
    body = await request.json()
    message = pb.CreateNetworkRequest()
    CREATE.parse(body, message, "CreateRequest")
    if not message.name.strip():
        raise InvalidArgument("invalid name: name is empty")
    reply = await request.engine.networks.Create(message)
    return Json({"Id": reply.id, "Warning": reply.warning}, 201)


async def remove(request: Request) -> Answer:
    await request.engine.networks.Remove(pb.NetworkRef(ref=request.name))
    return Empty()


async def connect(request: Request) -> Answer:
    message = pb.ConnectRequest()
    CONNECT.parse(await request.json(), message, "ConnectOptions")
    check_container(message.container)
    message.network = request.name
    await request.engine.networks.Connect(message)
    return Empty(200)


async def disconnect(request: Request) -> Answer:
    message = pb.DisconnectRequest()
    DISCONNECT.parse(await request.json(), message, "DisconnectOptions")
    check_container(message.container)
    message.network = request.name
    await request.engine.networks.Disconnect(message)
    return Empty(200)


def check_container(ref: str) -> None:
    if not ref:
        raise InvalidArgument('invalid name or ID supplied: ""')


async def prune(request: Request) -> Answer:
    report = await request.engine.networks.Prune(pb.PruneNetworksRequest(filters=request.filters()))
    return Json({"NetworksDeleted": list(report.deleted) or None})


def render(network: pb.Network, *, members: bool = True) -> dict[str, Any]:
    """A network as in inspect; a list leaves out who is on it."""
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339_nano(network.created),
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.enable_ipv4,
        "EnableIPv6": network.enable_ipv6,
        "IPAM": IPAM.render(network),
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": {
            member.container_id: {
                "Name": member.container_name,
                "EndpointID": member.endpoint_id,
                "MacAddress": member.mac_address,
                "IPv4Address": member.ipv4_address,
                "IPv6Address": member.ipv6_address,
            }
            for member in (network.members if members else ())
        },
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


ROUTES = (
    Route("GET", "/networks", list_networks),
    Route("GET", "/networks/", list_networks),
    Route("GET", "/networks/{name}", inspect),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/{name}/connect", connect),
    Route("POST", "/networks/{name}/disconnect", disconnect),
    Route("POST", "/networks/prune", prune),
    Route("DELETE", "/networks/{name}", remove),
)
