"""longshored: what version 1.43 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import CREATE, IMAGE_LIST, section

if TYPE_CHECKING:
    from compat_api.request import Request


class Annotations(Change):
    """Containers can be annotated."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        section(body, "HostConfig").pop("Annotations", None)


class UntaggedImages(Change):
    """Lists have no ``<none>:<none>`` for images without a tag."""

    endpoints = (IMAGE_LIST,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for image in body:
            if not image["RepoTags"] and not image["RepoDigests"]:
                image["RepoTags"] = ["<none>:<none>"]
                image["RepoDigests"] = ["<none>@<none>"]
            image["RepoTags"] = image["RepoTags"] or None
            image["RepoDigests"] = image["RepoDigests"] or None
        return body


CHANGES = (Annotations(), UntaggedImages())
