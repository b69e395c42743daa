"""longshored: what version 1.25 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import CREATE, INFO, section

if TYPE_CHECKING:
    from compat_api.request import Request


class AutoRemove(Change):
    """The engine removes containers; before, clients did."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        section(body, "HostConfig").pop("AutoRemove", None)


class SecurityOptions(Change):
    """/info has ``name=seccomp,profile=...`` in place of ``seccomp``."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body["SecurityOptions"] = [
            option.partition(",")[0].removeprefix("name=") for option in body["SecurityOptions"]
        ]
        return body


CHANGES = (AutoRemove(), SecurityOptions())
