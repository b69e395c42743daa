"""longshored: what differs between versions of the API, so that handlers know only the newest.

A module ``v1_NN`` holds what version 1.NN changed, one class per entry of the API's change log,
in its tuple ``CHANGES``. A client that speaks an older version than 1.NN meets all of them: its
request is lifted by the oldest change first, the response is lowered by the newest first. Modules
are loaded when the first client needs them.

To write an entry: subclass ``Change``, name the endpoints as in the route tables
(``"GET /containers/{name}/json"``), override what applies, add an instance to ``CHANGES``.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from compat_api.request import Request

Version = tuple[int, ...]


class Change:
    """One entry of the change log, seen from a client that does not know it."""

    endpoints: ClassVar[tuple[str, ...]] = ()

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        """Make the parameters mean to the newest version what they meant to the old one."""

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        """The same for the JSON object in the request's body."""

    def lower_body(self, body: Any, request: Request) -> Any:
        """Take from one JSON value of the response what the old version did not have.

        Returns the value to send, which may be ``body`` itself, changed. In a stream of values it
        is called for each; None in a stream leaves the value out.
        """
        return body

    def lower_content_type(self, content_type: str) -> str:
        return content_type


def parse(text: str) -> Version:
    """Numbers of ``1.51``; what is no number counts as 0, as in Docker."""
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))


@cache
def changes_for(version: Version, endpoint: str) -> tuple[Change, ...]:
    """What a client of ``version`` does not know about ``endpoint``, the oldest change first."""
    numbers = sorted(_change_modules())
    return tuple(
        change
        for number in numbers
        if number > version
        for change in _changes(number)
        if endpoint in change.endpoints
    )


@cache
def _change_modules() -> dict[Version, str]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name[:2] == "v1"]
    return {(1, int(name.removeprefix("v1_"))): name for name in names}


@cache
def _changes(number: Version) -> tuple[Change, ...]:
    module = importlib.import_module(f"{__name__}.{_change_modules()[number]}")
    changes: tuple[Change, ...] = module.CHANGES
    return changes
