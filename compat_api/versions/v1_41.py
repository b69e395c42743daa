"""longshored: what version 1.41 of the API changed; see the package."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from compat_api.versions import Change
from compat_api.versions.edits import CREATE, IMAGE_LIST, UnknownParameters, section

if TYPE_CHECKING:
    from compat_api.request import Request


class PlatformToCreate(UnknownParameters):
    """A container's platform can be given."""

    endpoints = (CREATE,)
    parameters = ("platform",)


class OneShotStats(UnknownParameters):
    """Stats can be had without waiting for a second sample."""

    endpoints = ("GET /containers/{name}/stats",)
    parameters = ("one-shot",)


class CgroupNamespace(Change):
    """The cgroup namespace can be chosen; before, it was the host's on cgroup v1."""

    endpoints = (CREATE,)

    def lift_body(self, body: dict[str, Any], request: Request) -> None:
        host = body.setdefault("HostConfig", {})
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        if isinstance(host, dict) and not host.get("CgroupnsMode") and not unified:
            host["CgroupnsMode"] = "host"


class ImageFilterParameter(Change):
    """Lists of images lost the parameter ``filter``, a pattern of names."""

    endpoints = (IMAGE_LIST,)

    def lift_query(self, query: dict[str, list[str]], request: Request) -> None:
        pattern = query.pop("filter", [""])[0]
        if not pattern:
            return
        try:
            filters = orjson.loads(query.get("filters", [""])[0] or b"{}")
        except orjson.JSONDecodeError:
            return
        if isinstance(filters, dict):
            names = [*section_names(filters), pattern]
            query["filters"] = [orjson.dumps({**filters, "reference": names}).decode()]


def section_names(filters: dict[str, Any]) -> list[str]:
    """Names of the filter ``reference``, which may be a list or an object's keys."""
    return list(filters.get("reference") or section(filters, "reference"))


CHANGES = (PlatformToCreate(), OneShotStats(), CgroupNamespace(), ImageFilterParameter())
