"""longshored: the streams of a container's process: attach, also over a WebSocket, and resize.

Attach hands the client's connection on; lifecycle writes the head, so that nothing of the output
can come before it. With ``logs`` the log is replayed from here first.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from common.errors import EngineError, InvalidArgument
from compat_api.detach_keys import parse_detach_keys
from compat_api.errors import rpc_errors, status_and_message
from compat_api.hijack import Gone, Hijack
from compat_api.log_format import LogOptions
from compat_api.log_reader import read_log
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Route
from compat_api.websocket import join_websocket
from lifecycle._pb import containers_pb2 as pb


async def attach(request: Request) -> Answer:
    hijack = Hijack(request)
    hijack.take()
    try:
        return await _attach(request, hijack)
    except (EngineError, grpc.aio.AioRpcError) as error:
        return hijack.fail(*status_and_message(error))


async def _attach(request: Request, hijack: Hijack) -> Gone:
    asked = attach_request(request)
    streaming, logs = request.flag("stream"), request.flag("logs")
    containers = request.engine.containers
    if logs or not streaming:
        asked.wait_only = True
        reply = await containers.Attach(asked)
        asked.wait_only = False
        hijack.write(hijack.head(tty=reply.tty))
        if logs:
            await replay_log(request, hijack, asked)
        if not streaming:
            return hijack.end()
    asked.stream.CopyFrom(await hijack.offer(heads=not logs))
    reply = await containers.Attach(asked)
    if reply.joined:
        return await hijack.hand_over()
    # Nothing runs; the client looks at the state itself, and stays or goes.
    if not logs:
        hijack.write(hijack.head(tty=reply.tty))
    return await hijack.hold()


def attach_request(request: Request) -> pb.AttachRequest:
    keys = request.text("detachKeys")
    if keys:
        parse_detach_keys(keys)
    return pb.AttachRequest(
        ref=request.name,
        stdin=request.flag("stdin"),
        stdout=request.flag("stdout"),
        stderr=request.flag("stderr"),
        detach_keys=keys or None,
    )


async def replay_log(request: Request, hijack: Hijack, asked: pb.AttachRequest) -> None:
    log = await request.engine.containers.GetLog(pb.ContainerRef(ref=request.name))
    if not log.path:
        raise InvalidArgument("configured logging driver does not support reading")
    options = LogOptions(stdout=asked.stdout, stderr=asked.stderr)
    async for block in read_log(Path(log.path), options, framed=not log.tty):
        hijack.write(block)


async def attach_websocket(request: Request) -> Answer:
    asked = attach_request(request)
    asked.wait_only = True
    with rpc_errors():
        await request.engine.containers.Attach(asked)
    asked.wait_only = False
    return await join_websocket(request, asked)


async def resize(request: Request) -> Answer:
    await request.engine.containers.Resize(resize_request(request))
    return Empty(200)


def resize_request(request: Request) -> pb.ResizeRequest:
    return pb.ResizeRequest(
        ref=request.name,
        height=dimension(request, "h", "height"),
        width=dimension(request, "w", "width"),
    )


def dimension(request: Request, key: str, name: str) -> int:
    text = request.text(key)
    digits = text.removeprefix("-")
    why = ""
    if not (digits.isascii() and digits.isdecimal()):
        why = "invalid syntax"
    elif digits != text or int(text) > 0xFFFFFFFF:
        why = "value out of range"
    if why:
        raise InvalidArgument(f'invalid resize {name} "{text}": {why}')
    return int(text)


ROUTES = (
    Route("POST", "/containers/{name}/attach", attach),
    Route("GET", "/containers/{name}/attach/ws", attach_websocket),
    Route("POST", "/containers/{name}/resize", resize),
)
