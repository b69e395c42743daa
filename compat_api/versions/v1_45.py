"""longshored: what version 1.45 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.errors import InvalidArgument
from common.ids import short
from compat_api.endpoint_checks import is_user_defined
from compat_api.versions import Change
from compat_api.versions.edits import CONTAINER_INSPECT, CREATE, IMAGE_INSPECT, mounts, section

if TYPE_CHECKING:
    from compat_api.request import Request


class VolumeSubpath(Change):
    """A directory inside a volume can be mounted."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        if any(section(mount, "VolumeOptions").get("Subpath") for mount in mounts(body)):
            raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")


class ContainerOfImages(Change):
    """An image lost the container that it was made in, and that one's configuration."""

    endpoints = (IMAGE_INSPECT,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body["ContainerConfig"] = {
            "Hostname": "",
            "Domainname": "",
            "User": "",
            "AttachStdin": False,
            "AttachStdout": False,
            "AttachStderr": False,
            "Tty": False,
            "OpenStdin": False,
            "StdinOnce": False,
            "Env": None,
            "Cmd": None,
            "Image": "",
            "Volumes": None,
            "WorkingDir": "",
            "Entrypoint": None,
            "OnBuild": None,
            "Labels": None,
        }
        return body


class AliasesAsSubmitted(Change):
    """Aliases are those that were asked for; before, the short id and the host name were added."""

    endpoints = (CONTAINER_INSPECT,)

    def lower_body(self, body: Any, request: Request) -> Any:
        own = (short(body["Id"]), body["Config"]["Hostname"])
        for name, endpoint in body["NetworkSettings"]["Networks"].items():
            if is_user_defined(name):
                endpoint["Aliases"] = list(dict.fromkeys([*(endpoint["Aliases"] or ()), *own]))
        return body


CHANGES = (VolumeSubpath(), ContainerOfImages(), AliasesAsSubmitted())
