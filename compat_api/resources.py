"""longshored: the tables of all resources, joined."""

from __future__ import annotations

from compat_api import ping
from compat_api.routes import Route

ROUTES: tuple[Route, ...] = (*ping.ROUTES,)
