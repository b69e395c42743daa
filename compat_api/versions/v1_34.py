"""longshored: what version 1.34 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change

if TYPE_CHECKING:
    from compat_api.request import Request


class WaitError(Change):
    """The result of a wait can have an error."""

    endpoints = ("POST /containers/{name}/wait",)

    def lower_body(self, body: Any, request: Request) -> Any:
        body.pop("Error", None)
        return body


CHANGES = (WaitError(),)
