"""longshored: endpoints of swarm and of plugins, of which this engine has none.

Clients probe them to learn just that, so they answer as a Docker Engine does that is no swarm's
member and has no plugins.
"""

from __future__ import annotations

from common.errors import InvalidArgument, NotFound, NotSupported, Unavailable
from compat_api.request import Request
from compat_api.routes import Answer, Json, Route

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
    "this node to swarm and try again."
)
NO_SWARM = "swarm mode is not supported by this engine"
NO_PLUGINS = "plugins are not supported by this engine"


async def not_a_manager(request: Request) -> Answer:
    raise Unavailable(NOT_A_MANAGER)


async def no_swarm(request: Request) -> Answer:
    raise NotSupported(NO_SWARM)


async def leave(request: Request) -> Answer:
    raise Unavailable("This node is not part of a swarm")


async def logs(request: Request) -> Answer:
    if not request.flag("stdout") and not request.flag("stderr"):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    raise Unavailable(NOT_A_MANAGER)


async def list_plugins(request: Request) -> Answer:
    return Json([])


async def no_such_plugin(request: Request) -> Answer:
    raise NotFound(f'plugin "{request.name}" not found')


async def no_plugins(request: Request) -> Answer:
    raise NotSupported(NO_PLUGINS)


_COLLECTIONS = ("services", "secrets", "configs")

ROUTES = (
    Route("GET", "/swarm", not_a_manager),
    Route("POST", "/swarm/init", no_swarm),
    Route("POST", "/swarm/join", no_swarm),
    Route("POST", "/swarm/leave", leave),
    Route("POST", "/swarm/update", not_a_manager),
    Route("GET", "/swarm/unlockkey", not_a_manager),
    Route("POST", "/swarm/unlock", not_a_manager),
    Route("GET", "/services/{name}/logs", logs),
    Route("GET", "/tasks/{name}/logs", logs),
    Route("GET", "/tasks", not_a_manager),
    Route("GET", "/tasks/{name}", not_a_manager),
    Route("GET", "/nodes", not_a_manager),
    Route("GET", "/nodes/{name}", not_a_manager),
    Route("POST", "/nodes/{name}/update", not_a_manager),
    Route("DELETE", "/nodes/{name}", not_a_manager),
    *(Route("GET", f"/{kind}", not_a_manager) for kind in _COLLECTIONS),
    *(Route("GET", f"/{kind}/{{name}}", not_a_manager) for kind in _COLLECTIONS),
    *(Route("POST", f"/{kind}/create", not_a_manager) for kind in _COLLECTIONS),
    *(Route("POST", f"/{kind}/{{name}}/update", not_a_manager) for kind in _COLLECTIONS),
    *(Route("DELETE", f"/{kind}/{{name}}", not_a_manager) for kind in _COLLECTIONS),
    Route("GET", "/plugins", list_plugins),
    Route("GET", "/plugins/privileges", no_plugins),
    Route("GET", "/plugins/{name}/json", no_such_plugin),
    Route("POST", "/plugins/pull", no_plugins),
    Route("POST", "/plugins/create", no_plugins),
    *(
        Route("POST", f"/plugins/{{name}}/{verb}", no_such_plugin)
        for verb in ("enable", "disable", "upgrade", "push", "set")
    ),
    Route("DELETE", "/plugins/{name}", no_such_plugin),
)
