"""longshored: what version 1.50 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import IMAGE_INSPECT, INFO, UnknownParameters, section

if TYPE_CHECKING:
    from compat_api.request import Request


class PlatformsToRemove(UnknownParameters):
    """Removing an image takes the platforms to remove."""

    endpoints = ("DELETE /images/{name}",)
    parameters = ("platforms",)


class BridgeFilterInfo(Change):
    """/info lost the br_netfilter fields, which had been false always."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body.pop("DiscoveredDevices", None)
        body["BridgeNfIptables"] = False
        body["BridgeNfIp6tables"] = False
        return body


class ContainerFieldsOfImages(Change):
    """An image's Config lost what only containers have; the fields were always empty."""

    endpoints = (IMAGE_INSPECT,)
    fields = (
        ("Hostname", ""),
        ("Domainname", ""),
        ("AttachStdin", False),
        ("AttachStdout", False),
        ("AttachStderr", False),
        ("Tty", False),
        ("OpenStdin", False),
        ("StdinOnce", False),
        ("Image", ""),
    )

    def lower_body(self, body: Any, request: Request) -> Any:
        config = section(body, "Config")
        for name, value in self.fields:
            config.setdefault(name, value)
        return body


CHANGES = (PlatformsToRemove(), BridgeFilterInfo(), ContainerFieldsOfImages())
