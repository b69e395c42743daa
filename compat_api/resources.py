"""longshored: the tables of all resources, joined."""

from __future__ import annotations

from compat_api import (
    attach,
    builds,
    container_files,
    containers,
    events,
    execs,
    image_transfers,
    images,
    logs,
    networks,
    ping,
    stats,
    swarm,
    system,
    top,
    volumes,
)
from compat_api.routes import Route

ROUTES: tuple[Route, ...] = (
    *ping.ROUTES,
    *containers.ROUTES,
    *attach.ROUTES,
    *container_files.ROUTES,
    *logs.ROUTES,
    *stats.ROUTES,
    *top.ROUTES,
    *execs.ROUTES,
    *images.ROUTES,
    *image_transfers.ROUTES,
    *builds.ROUTES,
    *networks.ROUTES,
    *volumes.ROUTES,
    *system.ROUTES,
    *events.ROUTES,
    *swarm.ROUTES,
)
