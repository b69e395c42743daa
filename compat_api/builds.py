"""longshored: /build and BuildKit's endpoints.

There is no builder yet: what would need one says so. What only asks about its cache is answered: it
is empty, and ``docker system prune`` relies on that.
"""

from __future__ import annotations

from common.errors import NotFound, NotSupported
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Json, Route

NO_BUILDER = (
    "building images is not supported by this engine yet: build the image elsewhere, "
    "and pull or load it"
)
PRUNE_FILTERS = frozenset(
    (
        "until",
        "id",
        "label",
        "label!",
        "parent",
        "type",
        "description",
        "inuse",
        "shared",
        "private",
    )
)


async def build(request: Request) -> Answer:
    raise NotSupported(NO_BUILDER)


async def buildkit(request: Request) -> Answer:
    # buildx looks at nothing but the status: it must not be 101.
    raise NotFound(NO_BUILDER)


async def prune(request: Request) -> Answer:
    request.filters(PRUNE_FILTERS)
    return Json({"CachesDeleted": None, "SpaceReclaimed": 0})


async def cancel(request: Request) -> Answer:
    return Empty(200)


ROUTES = (
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune),
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/session", buildkit),
    Route("POST", "/grpc", buildkit),
)
