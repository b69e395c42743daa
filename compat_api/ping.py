"""longshored: the routes that need no engine: ``/_ping``, and OPTIONS of any path."""

from __future__ import annotations

from aiohttp import web

from compat_api.request import COMMON_HEADERS, Request
from compat_api.routes import Answer, Empty, Route

PING_HEADERS = {
    **COMMON_HEADERS,
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": "text/plain; charset=utf-8",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(request: Request) -> Answer:
    return web.Response(body=b"OK", headers=PING_HEADERS)


async def ping_head(request: Request) -> Answer:
    return web.Response(headers={**PING_HEADERS, "Content-Length": "0"})


async def options(request: Request) -> Answer:
    return Empty(200)


ROUTES = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping_head),
    Route("OPTIONS", "/{name}", options),
)
