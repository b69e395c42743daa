"""longshored: /volumes."""

from __future__ import annotations

from typing import Any

import orjson

from common.errors import Unavailable
from common.times import rfc3339_nano
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Json, Route
from compat_api.schema import Map, Schema, Text
from compat_api.swarm import NOT_A_MANAGER
from lifecycle._pb import networks_pb2 as pb

CREATE = Schema(
    "volume.CreateOptions",
    (
        Text("Name", "name"),
        Text("Driver", "driver"),
        Map("DriverOpts", "options", presence="has_options"),
        Map("Labels", "labels", presence="has_labels"),
    ),
)


async def list_volumes(request: Request) -> Answer:
    found = await request.engine.volumes.List(pb.ListVolumesRequest(filters=request.filters()))
    return Json({"Volumes": [render(volume) for volume in found.volumes], "Warnings": None})


async def inspect(request: Request) -> Answer:
    return Json(render(await request.engine.volumes.Get(pb.VolumeRef(name=request.name))))


async def create(request: Request) -> Answer:
    body = await request.json()
    if body.get("ClusterVolumeSpec") is not None:
        raise Unavailable(NOT_A_MANAGER)
    message = pb.CreateVolumeRequest()
    CREATE.parse(body, message, "CreateOptions")
    return Json(render(await request.engine.volumes.Create(message)), 201)


async def update(request: Request) -> Answer:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(request: Request) -> Answer:
    await request.engine.volumes.Remove(
        pb.RemoveVolumeRequest(name=request.name, force=request.flag("force"))
    )
    return Empty()


async def prune(request: Request) -> Answer:
    report = await request.engine.volumes.Prune(pb.PruneVolumesRequest(filters=request.filters()))
    return Json({"VolumesDeleted": list(report.deleted), "SpaceReclaimed": report.space_reclaimed})


def render(volume: pb.Volume) -> dict[str, Any]:
    """A volume; null tells labels and options that were not given from empty ones."""
    # Volumes, unlike all else, have times without a fraction.
    created = rfc3339_nano(volume.created // 1_000_000_000 * 1_000_000_000)
    labels, options = dict(volume.labels), dict(volume.options)
    body = {
        "CreatedAt": created,
        "Driver": volume.driver,
        "Labels": labels if labels or volume.has_labels else None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": options if options or volume.has_options else None,
        "Scope": volume.scope or "local",
    }
    if volume.status:
        body["Status"] = orjson.loads(volume.status)
    return body


ROUTES = (
    Route("GET", "/volumes", list_volumes),
    Route("GET", "/volumes/{name}", inspect),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("PUT", "/volumes/{name}", update),
    Route("DELETE", "/volumes/{name}", remove),
)
