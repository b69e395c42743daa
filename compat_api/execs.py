"""longshored: /exec, processes that are executed in a running container."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import grpc

from common.errors import EngineError, InvalidArgument, NotFound
from compat_api.attach import resize_request
from compat_api.container_fields import EXEC
from compat_api.container_json import exec_body
from compat_api.detach_keys import parse_detach_keys
from compat_api.errors import status_and_message
from compat_api.hijack import STDERR, STDOUT, Gone, Hijack, frame
from compat_api.request import Request
from compat_api.routes import Answer, Empty, Json, Route
from compat_api.schema import mismatch, texts
from lifecycle._pb import containers_pb2 as pb


async def create(request: Request) -> Answer:
    asked = create_request(await request.json(), request.name)
    reply = await request.engine.execs.Create(asked)
    return Json({"Id": reply.id}, 201)


def create_request(body: dict[str, Any], ref: str) -> pb.CreateExecRequest:
    asked = pb.CreateExecRequest(ref=ref)
    EXEC.parse(body, asked, "ExecOptions")
    asked.env.extend(texts(body.get("Env") or [], "ExecOptions.Env"))
    asked.cmd.extend(texts(body.get("Cmd") or [], "ExecOptions.Cmd"))
    if not asked.cmd:
        raise InvalidArgument("No exec command specified")
    if asked.detach_keys:
        parse_detach_keys(asked.detach_keys)
    else:
        asked.ClearField("detach_keys")
    return asked


async def start(request: Request) -> Answer:
    body = await request.json()
    # The client's word now, not the exec's own: it says how the client will read.
    tty = flag(body, "Tty")
    asked = pb.StartExecRequest(id=request.name, detach=flag(body, "Detach"), tty=tty)
    set_console_size(asked, body)
    if asked.detach:
        await request.engine.execs.Start(asked)
        return Empty(200)
    hijack = Hijack(request)
    hijack.take()
    return await _join(request, hijack, asked, tty=tty)


async def _join(request: Request, hijack: Hijack, asked: pb.StartExecRequest, *, tty: bool) -> Gone:
    try:
        asked.stream.CopyFrom(await hijack.offer(common=True))
        reply = await request.engine.execs.Start(asked)
    except (EngineError, grpc.aio.AioRpcError) as error:
        status, message = status_and_message(error)
        if status == HTTPStatus.NOT_FOUND:
            # That there is no such exec is an ordinary answer; all else is on the stream.
            hijack.give_back()
            raise
        hijack.write(hijack.head(tty=tty, common=True))
        return end_with(hijack, message, STDOUT, tty=tty)
    if reply.failure:
        return end_with(hijack, reply.failure, STDERR, tty=tty)
    return await hijack.hand_over()


def end_with(hijack: Hijack, message: str, stream: int, *, tty: bool) -> Gone:
    data = f"{message}\r\n".encode()
    hijack.write(data if tty else frame(stream, data))
    return hijack.end()


def flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise mismatch(value, f"ExecStartOptions.{name}", "bool")
    return bool(value)


def set_console_size(asked: pb.StartExecRequest, body: dict[str, Any]) -> None:
    size = body.get("ConsoleSize")
    if size is None or not flag(body, "Tty"):
        return
    if type(size) is not list or not all(type(item) is int and item >= 0 for item in size):
        raise mismatch(size, "ExecStartOptions.ConsoleSize", "[2]uint")
    asked.console_height, asked.console_width = (*size, 0, 0)[:2]


async def inspect(request: Request) -> Answer:
    return Json(exec_body(await request.engine.execs.Get(pb.ExecRef(id=request.name))))


async def resize(request: Request) -> Answer:
    if not request.name:
        raise NotFound("No such exec instance: ")
    await request.engine.execs.Resize(resize_request(request))
    return Empty(200)


ROUTES = (
    Route("POST", "/containers/{name}/exec", create),
    Route("POST", "/exec/{name}/start", start),
    Route("POST", "/exec/{name}/resize", resize),
    Route("GET", "/exec/{name}/json", inspect),
)
