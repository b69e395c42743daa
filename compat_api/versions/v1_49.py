"""longshored: what version 1.49 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import IMAGE_INSPECT, INFO, UnknownParameters

if TYPE_CHECKING:
    from compat_api.request import Request


class PlatformToInspect(UnknownParameters):
    """Inspecting an image takes a platform."""

    endpoints = (IMAGE_INSPECT,)
    parameters = ("platform",)


class FirewallInfo(Change):
    """/info tells the firewall backend."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body.pop("FirewallBackend", None)
        return body


class ExpectedCommits(Change):
    """/info lost the commits that components were expected to have."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            if body[name]["ID"]:
                body[name]["Expected"] = body[name]["ID"]
        return body


CHANGES = (PlatformToInspect(), FirewallInfo(), ExpectedCommits())
