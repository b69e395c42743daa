"""longshored: GET /events.

The head is sent when lifecycle's subscription stands, so that a client that has it misses nothing
that it causes. A client that does not read holds up its own gRPC stream and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.errors import InvalidArgument, Unavailable
from compat_api.errors import from_rpc
from compat_api.logs import parse_time
from compat_api.request import Request
from compat_api.routes import Answer, Route
from compat_api.streams import JsonStream
from lifecycle._pb import system_pb2 as pb


async def events(request: Request) -> Answer:
    since, until = request.text("since"), request.text("until")
    message = pb.SubscribeRequest(
        since=parse_time(since), until=parse_time(until), filters=request.filters()
    )
    if since and until and message.since > message.until:
        raise InvalidArgument(f"`since` time ({since}) cannot be after `until` time ({until})")
    if since and not message.since:
        message.since = 1  # from the first one on; 0 stands for "not given"
    stream = JsonStream(request, end=b"\n")
    async for event in subscribe(request, message):
        if event is None:
            await stream.begin()
        else:
            await stream.send(body(event))
    return await stream.finish()


async def subscribe(
    request: Request, message: pb.SubscribeRequest
) -> AsyncIterator[pb.Event | None]:
    """Events, and None when the subscription stands; goes on after a restart of lifecycle."""
    stands = False
    while True:
        call = request.engine.system.Subscribe(message)
        try:
            async for event in call:
                if event.type:
                    message.since = event.time + 1
                    yield event
                elif not stands:
                    stands = True
                    yield None
            return
        except grpc.aio.AioRpcError as error:
            if not stands:
                raise
            if not isinstance(from_rpc(error), Unavailable):
                return  # the stream has no place for an error: clients take all for events
        finally:
            call.cancel()


def body(event: pb.Event) -> dict[str, Any]:
    """``status``, ``id`` and ``from`` are what clients older than 1.52 read."""
    result: dict[str, Any] = {}
    if event.type in ("container", "image"):
        result = {"status": event.action, "id": event.actor_id}
        if event.type == "container" and event.attributes.get("image"):
            result["from"] = event.attributes["image"]
    return result | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": dict(sorted(event.attributes.items()))},
        "scope": "local",
        "time": event.time // 1_000_000_000,
        "timeNano": event.time,
    }


ROUTES = (Route("GET", "/events", events),)
