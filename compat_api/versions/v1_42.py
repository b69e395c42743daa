"""longshored: what version 1.42 of the API changed; see the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from compat_api import host
from compat_api.hijack import MULTIPLEXED, RAW
from compat_api.versions import Change
from compat_api.versions.edits import (
    CREATE,
    DISK_USAGE,
    IMAGE_LIST,
    INFO,
    UnknownParameters,
    mounts,
    section,
)

if TYPE_CHECKING:
    from compat_api.request import Request


class StopSignalParameter(UnknownParameters):
    """Stop and restart take a signal."""

    endpoints = ("POST /containers/{name}/stop", "POST /containers/{name}/restart")
    parameters = ("signal",)


class SharedSizeParameter(UnknownParameters):
    """A list of images can have the sizes that they share."""

    endpoints = (IMAGE_LIST,)
    parameters = ("shared-size",)


class DiskUsageTypes(UnknownParameters):
    """Disk usage can be limited to some types of objects."""

    endpoints = (DISK_USAGE,)
    parameters = ("type",)


class MultiplexedContentType(Change):
    """Multiplexed streams have a content type of their own."""

    endpoints = (
        "POST /containers/{name}/attach",
        "POST /exec/{name}/start",
        "GET /containers/{name}/logs",
    )

    def lower_content_type(self, content_type: str) -> str:
        return RAW if content_type == MULTIPLEXED else content_type


class WebSocketStreams(Change):
    """Attaching by WebSocket can choose streams; before, it was all of them."""

    endpoints = ("GET /containers/{name}/attach/ws",)

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        query.update({"stdin": ["1"], "stdout": ["1"], "stderr": ["1"]})


class ConsoleSize(Change):
    """The terminal's first size can be given."""

    endpoints = (CREATE, "POST /containers/{name}/exec", "POST /exec/{name}/start")

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        body.pop("ConsoleSize", None)
        section(body, "HostConfig").pop("ConsoleSize", None)


class KernelMemoryInfo(Change):
    """/info lost the kernel's ability to limit its own memory."""

    endpoints = (INFO,)

    def lower_body(self, body: Any, request: Request) -> Any:
        if host.limits_kernel_memory():
            body["KernelMemory"] = True
        return body


class MountOptions(Change):
    """CreateMountpoint came, and options of another type than the mount's became an error."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        for mount in mounts(body):
            section(mount, "BindOptions").pop("CreateMountpoint", None)
            for name, kind in (("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
                if mount.get("Type") != kind:
                    mount.pop(name, None)


class PruneNamedVolumes(Change):
    """Pruning volumes leaves those with a name, unless the filter ``all`` is set."""

    endpoints = ("POST /volumes/prune",)

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        try:
            filters = orjson.loads(query.get("filters", [""])[0] or b"{}")
        except orjson.JSONDecodeError:
            return
        if isinstance(filters, dict):
            query["filters"] = [orjson.dumps({**filters, "all": ["true"]}).decode()]


CHANGES = (
    StopSignalParameter(),
    SharedSizeParameter(),
    DiskUsageTypes(),
    MultiplexedContentType(),
    WebSocketStreams(),
    ConsoleSize(),
    KernelMemoryInfo(),
    MountOptions(),
    PruneNamedVolumes(),
)
