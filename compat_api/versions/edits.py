"""longshored: what several versions' changes do to requests and responses; see the package.

Bodies come as the client sent them, before any check: a part of the wrong type is left for the
parser to complain about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from compat_api.versions import Change

if TYPE_CHECKING:
    from compat_api.request import Request

CREATE = "POST /containers/create"
CONTAINER_INSPECT = "GET /containers/{name}/json"
CONTAINER_LIST = "GET /containers/json"
IMAGE_INSPECT = "GET /images/{name}/json"
IMAGE_LIST = "GET /images/json"
INFO = "GET /info"
DISK_USAGE = "GET /system/df"


class UnknownParameters(Change):
    """Query parameters that the older version ignores."""

    parameters: ClassVar[tuple[str, ...]] = ()

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        for name in self.parameters:
            query.pop(name, None)


def section(body: Any, *names: str) -> dict[str, Any]:
    """The object at ``names`` in ``body``, or an empty one that is not part of it."""
    for name in names:
        body = body.get(name) if isinstance(body, dict) else None
    return body if isinstance(body, dict) else {}


def mounts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found = section(body, "HostConfig").get("Mounts")
    if isinstance(found, list):
        yield from (mount for mount in found if isinstance(mount, dict))


def endpoints(body: dict[str, Any]) -> dict[str, Any]:
    return section(body, "NetworkingConfig", "EndpointsConfig")


def network_mode(body: dict[str, Any]) -> str:
    mode = section(body, "HostConfig").get("NetworkMode")
    return mode if isinstance(mode, str) and mode not in ("", "default") else "bridge"


def put_endpoint(body: dict[str, Any], network: str, settings: dict[str, Any]) -> None:
    """Add an endpoint to a body that may lack the objects around it."""
    networking = body.get("NetworkingConfig")
    if not isinstance(networking, dict):
        networking = body["NetworkingConfig"] = {}
    if not isinstance(networking.get("EndpointsConfig"), dict):
        networking["EndpointsConfig"] = {}
    networking["EndpointsConfig"][network] = settings
