"""longshored: what version 1.48 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.errors import InternalError, InvalidArgument
from compat_api.container_create import VOLUME_DRIVER_WARNING
from compat_api.endpoint_checks import ENDPOINT_SYSCTLS
from compat_api.mount_checks import quoted
from compat_api.versions import Change
from compat_api.versions.edits import (
    CREATE,
    IMAGE_INSPECT,
    UnknownParameters,
    endpoints,
    mounts,
    network_mode,
    put_endpoint,
    section,
)

if TYPE_CHECKING:
    from compat_api.request import Request


class PlatformOfImages(UnknownParameters):
    """History, save and load take a platform."""

    endpoints = (
        "GET /images/{name}/history",
        "GET /images/{name}/get",
        "GET /images/get",
        "POST /images/load",
    )
    parameters = ("platform",)


class ManifestsToInspect(UnknownParameters):
    """Inspecting an image can list the manifests."""

    endpoints = (IMAGE_INSPECT,)
    parameters = ("manifests",)


class NetworksWithoutIpv4(Change):
    """A network can be made without IPv4."""

    endpoints = ("POST /networks/create",)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        body.pop("EnableIPv4", None)


class GatewayPriority(Change):
    """Endpoints have a priority that decides which gives the default gateway."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        for endpoint in endpoints(body).values():
            if isinstance(endpoint, dict):
                endpoint.pop("GwPriority", None)


class ImageMounts(Change):
    """Images can be mounted."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        if any(mount.get("Type") == "image" for mount in mounts(body)):
            raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')


class VolumeDriverWarning(Change):
    """The engine warns of a volume driver that does not apply; clients did before."""

    endpoints = (CREATE,)

    def lower_body(self, body: Any, request: Request) -> Any:
        body["Warnings"] = [text for text in body["Warnings"] if text != VOLUME_DRIVER_WARNING]
        return body


class InterfaceSysctls(Change):
    """Sysctls of eth0 belong to an endpoint; before, they were moved to the main network's."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        sysctls = section(body, "HostConfig").get("Sysctls")
        mode = network_mode(body)
        if not isinstance(sysctls, dict) or mode == "host" or mode.startswith("container:"):
            return
        moved = {}
        for name, value in sysctls.items():
            parts = name.split(".", 4)
            if len(parts) == 5 and parts[0] == "net" and parts[3].startswith("eth"):
                if parts[3] != "eth0":
                    raise InternalError(
                        f"unable to determine network endpoint for sysctl {name}, use driver "
                        f"option '{ENDPOINT_SYSCTLS}' to set per-interface sysctls"
                    )
                moved[name] = f"net.{parts[1]}.{parts[2]}.IFNAME.{parts[4]}={value}"
        if moved:
            self._move(body, mode, moved, request)

    def _move(
        self, body: dict[str, Any], mode: str, moved: dict[str, str], request: Request
    ) -> None:
        if not endpoints(body):
            put_endpoint(body, mode, {})
        endpoint = endpoints(body).get(mode)
        if not isinstance(endpoint, dict):
            raise InternalError(
                f"unable to find a network for sysctl {next(iter(moved))}: HostConfig.NetworkMode "
                "must match the identity of a network in NetworkSettings.Networks"
            )
        option = ",".join(moved.values())
        request.warnings.append(
            f"Migrated sysctl {quoted(','.join(moved))} to "
            f"DriverOpts{{{quoted(ENDPOINT_SYSCTLS)}:{quoted(option)}}}."
        )
        options = endpoint.get("DriverOpts") or {}
        # The endpoint's own come last and so win.
        own = options.get(ENDPOINT_SYSCTLS)
        endpoint["DriverOpts"] = {
            **options,
            ENDPOINT_SYSCTLS: f"{option},{own}" if own else option,
        }
        for name in moved:
            del body["HostConfig"]["Sysctls"][name]


CHANGES = (
    PlatformOfImages(),
    ManifestsToInspect(),
    NetworksWithoutIpv4(),
    GatewayPriority(),
    ImageMounts(),
    VolumeDriverWarning(),
    InterfaceSysctls(),
)
