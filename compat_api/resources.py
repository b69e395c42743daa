"""longshored: the tables of all resources, joined."""

from __future__ import annotations

from compat_api import (
    attach,
    container_files,
    containers,
    execs,
    logs,
    ping,
    stats,
    top,
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
)
