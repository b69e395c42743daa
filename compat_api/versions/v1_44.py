"""longshored: what version 1.44 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.errors import InvalidArgument
from compat_api.containers import READ_ONLY_NON_RECURSIVE
from compat_api.endpoint_checks import is_user_defined
from compat_api.times import ZERO_TIME
from compat_api.versions import Change
from compat_api.versions.edits import (
    CREATE,
    DISK_USAGE,
    IMAGE_INSPECT,
    IMAGE_LIST,
    INFO,
    endpoints,
    mounts,
    network_mode,
    put_endpoint,
    section,
)

if TYPE_CHECKING:
    from compat_api.request import Request


class VirtualSize(Change):
    """Images lost VirtualSize, which was the same as Size."""

    endpoints = (IMAGE_LIST, IMAGE_INSPECT, DISK_USAGE)

    def lower_body(self, body: Any, request: Request) -> Any:
        images = body
        if isinstance(body, dict):
            images = body["Images"] or () if "LayersSize" in body else (body,)
        for image in images:
            image["VirtualSize"] = image["Size"]
        return body


class ImagesWithoutCreated(Change):
    """An image whose configuration has no time of creation has none in its inspect either."""

    endpoints = (IMAGE_INSPECT,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body.setdefault("Created", ZERO_TIME)
        return body


class RuntimeStatus(Change):
    """/info has a status of each runtime."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for runtime in body["Runtimes"].values():
            runtime.pop("status", None)
        return body


class HealthcheckStartInterval(Change):
    """Health checks have an interval for the start period."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        section(body, "Healthcheck").pop("StartInterval", None)


class RecursiveReadOnly(Change):
    """Read-only binds cover the mounts below them; before, those stayed writable."""

    endpoints = (CREATE,)

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        query[READ_ONLY_NON_RECURSIVE] = ["1"]

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        for mount in mounts(body):
            options = section(mount, "BindOptions")
            if mount.get("Type") == "bind" and options.get("ReadOnlyForceRecursive"):
                raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
            if mount.get("Type") == "bind" and mount.get("ReadOnly"):
                options["ReadOnlyNonRecursive"] = True  # shown only where options were given


class SeveralEndpoints(Change):
    """A container can be created with several networks."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        found = endpoints(body)
        if len(found) > 1:
            raise InvalidArgument(
                "Container cannot be created with multiple network endpoints: " + ", ".join(found)
            )


class EndpointMacAddress(Change):
    """MAC addresses belong to endpoints; before, a container had one and its endpoints none."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        address = body.pop("MacAddress", None)
        found = endpoints(body)
        for endpoint in found.values():
            if isinstance(endpoint, dict):
                endpoint.pop("MacAddress", None)
        if not address:
            return
        mode = network_mode(body)
        if mode != "bridge" and not is_user_defined(mode):
            raise InvalidArgument("conflicting options: mac-address and the network mode")
        # There is at most one, and it counts whatever its name.
        name = next(iter(found), mode)
        put_endpoint(body, name, {**section(found, name), "MacAddress": address})


CHANGES = (
    VirtualSize(),
    ImagesWithoutCreated(),
    RuntimeStatus(),
    HealthcheckStartInterval(),
    RecursiveReadOnly(),
    SeveralEndpoints(),
    EndpointMacAddress(),
)
