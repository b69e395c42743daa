"""longshored: what version 1.51 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import IMAGE_LIST

if TYPE_CHECKING:
    from compat_api.request import Request


class ContainersOfImages(Change):
    """Lists of images have the number of containers that use each; it was always -1."""

    endpoints = (IMAGE_LIST,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for image in body:
            image["Containers"] = -1
        return body


CHANGES = (ContainersOfImages(),)
