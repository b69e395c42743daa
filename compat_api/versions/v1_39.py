"""longshored: what version 1.39 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import INFO

if TYPE_CHECKING:
    from compat_api.request import Request


class UnknownSystem(Change):
    """/info has an empty text for what could not be found out; it was ``<unknown>``."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        for name in ("KernelVersion", "OperatingSystem"):
            body[name] = body[name] or "<unknown>"
        return body


CHANGES = (UnknownSystem(),)
