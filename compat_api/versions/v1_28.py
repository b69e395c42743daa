"""longshored: what version 1.28 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compat_api.networks import WITH_MEMBERS
from compat_api.versions import Change
from compat_api.websocket import TEXT_FRAMES

if TYPE_CHECKING:
    from compat_api.request import Request


class BinaryFrames(Change):
    """Messages on attached WebSockets are binary; they were text."""

    endpoints = ("GET /containers/{name}/attach/ws",)

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        query[TEXT_FRAMES] = ["1"]


class ContainersOfNetworks(Change):
    """Lists of networks lost the containers on each."""

    endpoints = ("GET /networks", "GET /networks/")

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        query[WITH_MEMBERS] = ["1"]


CHANGES = (BinaryFrames(), ContainersOfNetworks())
