"""longshored: /containers, what is not about a container's streams and files.

Each handler reads the request, makes one call of lifecycle, and answers.
"""

from __future__ import annotations

from common.errors import InvalidArgument
from compat_api import reference
from compat_api.container_create import create_request, parse_config, update_request
from compat_api.container_json import inspect_body, list_body
from compat_api.errors import prefixed
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Encoded, Json, Route
from lifecycle._pb import containers_pb2 as pb

WAIT_CONDITIONS = frozenset(("not-running", "next-exit", "removed"))
# A start request with a body longer than this has a HostConfig in it, as was allowed long ago.
MAX_START_BODY = 7
# No client sends it: versions/v1_44.py sets it for those whose read-only binds are not recursive.
READ_ONLY_NON_RECURSIVE = "read-only-non-recursive"


async def create(request: Request) -> Answer:
    body = await request.json(required=True)
    asked, warnings = create_request(
        body, name=request.text("name"), platform=request.text("platform")
    )
    asked.read_only_non_recursive = request.flag(READ_ONLY_NON_RECURSIVE)
    reply = await request.engine.containers.Create(asked)
    all_warnings = [*reply.warnings, *warnings, *request.warnings]
    return Json({"Id": reply.id, "Warnings": all_warnings}, 201)


async def list_containers(request: Request) -> Answer:
    asked = pb.ListContainersRequest(
        all=request.flag("all"),
        limit=max(request.integer("limit") or 0, 0),
        size=request.flag("size"),
        filters=request.filters(),
    )
    for key in ("since", "before"):  # parameters of their own to the oldest clients
        if request.text(key):
            asked.filters.add(key=key, values=[request.text(key)])
    reply = await request.engine.containers.List(asked)
    return Json(list_body(reply.containers))


async def inspect(request: Request) -> Answer:
    kept, size = request.engine.inspections, request.flag("size")
    encoded = None if size else kept.get(request.name, request.version)
    if encoded is None:
        asked = pb.ContainerRef(ref=request.name, size=size)
        container = await request.engine.containers.Get(asked)
        encoded = request.encode(inspect_body(container))
        kept.keep(request.name, request.version, container, encoded)
    return Encoded(encoded)


async def start(request: Request) -> Answer:
    length = request.http.content_length
    if (length or 0) > MAX_START_BODY or (length is None and request.http.body_exists):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and "
            "removed in v1.24"
        )
    if request.text("checkpoint"):
        raise InvalidArgument("checkpoint is only supported in experimental mode")
    reply = await request.engine.containers.Start(pb.StartRequest(ref=request.name))
    return Empty(304 if reply.was_running else 204)


async def stop(request: Request) -> Answer:
    reply = await request.engine.containers.Stop(stop_request(request))
    return Empty(304 if reply.was_stopped else 204)


async def restart(request: Request) -> Answer:
    await request.engine.containers.Restart(stop_request(request))
    return Empty()


def stop_request(request: Request) -> pb.StopRequest:
    return pb.StopRequest(
        ref=request.name, timeout=request.integer("t"), signal=request.text("signal")
    )


async def kill(request: Request) -> Answer:
    with prefixed(f"cannot kill container: {request.name}"):
        await request.engine.containers.Kill(
            pb.KillRequest(ref=request.name, signal=request.text("signal"))
        )
    return Empty()


async def pause(request: Request) -> Answer:
    await request.engine.containers.Pause(pb.ContainerRef(ref=request.name))
    return Empty()


async def unpause(request: Request) -> Answer:
    await request.engine.containers.Unpause(pb.ContainerRef(ref=request.name))
    return Empty()


async def rename(request: Request) -> Answer:
    await request.engine.containers.Rename(
        pb.RenameRequest(ref=request.name, name=request.text("name"))
    )
    return Empty()


async def update(request: Request) -> Answer:
    asked = update_request(await request.json(), request.name)
    reply = await request.engine.containers.Update(asked)
    return Json({"Warnings": list(reply.warnings) or None})


async def remove(request: Request) -> Answer:
    await request.engine.containers.Remove(
        pb.RemoveContainerRequest(
            ref=request.name,
            force=request.flag("force"),
            volumes=request.flag("v"),
            link=request.flag("link"),
        )
    )
    return Empty()


async def prune(request: Request) -> Answer:
    report = await request.engine.containers.Prune(
        pb.PruneContainersRequest(filters=request.filters())
    )
    return Json(
        {
            "ContainersDeleted": list(report.deleted) or None,
            "SpaceReclaimed": report.space_reclaimed,
        }
    )


async def wait(request: Request) -> Answer:
    """The head must go out at once: clients start the container only when they have it."""
    condition = request.text("condition") or "not-running"
    if condition not in WAIT_CONDITIONS:
        raise InvalidArgument(f'invalid condition: "{condition}"')
    call = request.engine.containers.Wait(pb.WaitRequest(ref=request.name, condition=condition))
    try:
        replies = aiter(call)
        reply = await anext(replies)
        # Now the wait stands, and no exit can be missed.
        response = await request.stream("application/json")
        while reply.registered:
            reply = await anext(replies)
        await response.write(request.encode({"StatusCode": reply.exit_code}))
        await response.write_eof()
        return response
    finally:
        call.cancel()


async def commit(request: Request) -> Answer:
    body = await request.json()
    repository = request.text("repo")
    asked = pb.CommitRequest(
        ref=request.text("container"),
        reference=reference.join(repository, request.text("tag")) if repository else "",
        comment=request.text("comment"),
        author=request.text("author"),
        changes=[line for value in request.texts("changes") for line in value.splitlines()],
        pause=request.flag("pause", default=True),
    )
    if body:
        parse_config(body, asked.config)
    reply = await request.engine.containers.Commit(asked)
    return Json({"Id": reply.id}, 201)


ROUTES = (
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_containers),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{name}/json", inspect),
    Route("POST", "/containers/{name}/start", start),
    Route("POST", "/containers/{name}/stop", stop),
    Route("POST", "/containers/{name}/restart", restart),
    Route("POST", "/containers/{name}/kill", kill),
    Route("POST", "/containers/{name}/pause", pause),
    Route("POST", "/containers/{name}/unpause", unpause),
    Route("POST", "/containers/{name}/rename", rename),
    Route("POST", "/containers/{name}/update", update),
    Route("POST", "/containers/{name}/wait", wait),
    Route("DELETE", "/containers/{name}", remove),
    Route("POST", "/commit", commit),
)
