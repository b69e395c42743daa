"""longshored: what version 1.47 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import IMAGE_LIST, INFO, UnknownParameters, section

if TYPE_CHECKING:
    from compat_api.request import Request


class ManifestsInLists(UnknownParameters):
    """A list of images can have the manifests."""

    endpoints = (IMAGE_LIST,)
    parameters = ("manifests",)


class NondistributableInfo(Change):
    """/info lost the registries that nondistributable artifacts may be pushed to.

    The change log has this under 1.49; Docker does it from 1.47 on.
    """

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        registries = section(body, "RegistryConfig")
        registries["AllowNondistributableArtifactsCIDRs"] = None
        registries["AllowNondistributableArtifactsHostnames"] = None
        return body


CHANGES = (ManifestsInLists(), NondistributableInfo())
