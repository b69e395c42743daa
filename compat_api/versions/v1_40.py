"""longshored: what version 1.40 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compat_api.versions import Change
from compat_api.versions.edits import CREATE, mounts, section

if TYPE_CHECKING:
    from compat_api.request import Request


class NonRecursiveBinds(Change):
    """A bind can leave out the mounts below its source."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        for mount in mounts(body):
            section(mount, "BindOptions").pop("NonRecursive", None)


class KernelMemoryTcp(Change):
    """Memory of TCP buffers can be limited."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        section(body, "HostConfig").pop("KernelMemoryTCP", None)


class PrivateIpc(Change):
    """IPC namespaces are private if nothing is said; before, others could join."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        host = body.setdefault("HostConfig", {})
        if isinstance(host, dict) and not host.get("IpcMode"):
            host["IpcMode"] = "shareable"


class UpdateOfPidsLimit(Change):
    """The limit of tasks can be updated."""

    endpoints = ("POST /containers/{name}/update",)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        body.pop("PidsLimit", None)


CHANGES = (NonRecursiveBinds(), KernelMemoryTcp(), PrivateIpc(), UpdateOfPidsLimit())
