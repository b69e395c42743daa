"""longshored: what version 1.46 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import CONTAINER_LIST, INFO, UnknownParameters

if TYPE_CHECKING:
    from compat_api.request import Request


class ContainerdInfo(Change):
    """/info tells where containerd is."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body.pop("Containerd", None)
        return body


class AnnotationsInLists(Change):
    """A list of containers has their annotations."""

    endpoints = (CONTAINER_LIST,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for container in body:
            container["HostConfig"].pop("Annotations", None)
        return body


class PlatformToPush(UnknownParameters):
    """Pushing an image takes a platform."""

    endpoints = ("POST /images/{name}/push",)
    parameters = ("platform",)


class ImageCreateEvents(Change):
    """There is an event for an image that was built."""

    endpoints = ("GET /events",)

    def lower_body(self, body: Any, request: Request) -> Any:
        return None if (body["Type"], body["Action"]) == ("image", "create") else body


CHANGES = (ContainerdInfo(), AnnotationsInLists(), PlatformToPush(), ImageCreateEvents())
