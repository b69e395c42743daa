"""longshored: GET /containers/{name}/logs.

Lifecycle says where the log is and when the container stops; log_reader.py reads the files.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from pathlib import Path

import grpc

from common.errors import InternalError, InvalidArgument, NotSupported, Unavailable
from compat_api.errors import from_rpc
from compat_api.log_format import LogOptions
from compat_api.log_reader import read_log
from compat_api.request import Request
from compat_api.routes import Answer, Route
from lifecycle._pb import containers_pb2 as pb

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_UNIX_TIME = re.compile(r"(-?\d+)(?:\.(\d+))?", re.ASCII)


async def logs(request: Request) -> Answer:
    options = parse_options(request)
    log = await request.engine.containers.GetLog(pb.ContainerRef(ref=request.name))
    if not log.path:
        raise NotSupported("configured logging driver does not support reading")
    stopped = None
    if options.follow and log.running:
        stopped = asyncio.ensure_future(_wait_until_stopped(request, log.container_id))
    try:
        response = await request.stream(RAW if log.tty else MULTIPLEXED)
        blocks = read_log(Path(log.path), options, framed=not log.tty, stopped=stopped)
        async with aclosing(blocks):
            async for block in blocks:
                await response.write(block)
        await response.write_eof()
    finally:
        if stopped is not None:
            stopped.cancel()
    return response


def parse_options(request: Request) -> LogOptions:
    stdout, stderr = request.flag("stdout"), request.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return LogOptions(
        stdout=stdout,
        stderr=stderr,
        timestamps=request.flag("timestamps"),
        details=request.flag("details"),
        follow=request.flag("follow"),
        tail=parse_tail(request.text("tail")),
        since=parse_time(request.text("since")),
        until=parse_time(request.text("until")),
    )


def parse_tail(text: str) -> int | None:
    """What is no number, and a negative one, means everything."""
    digits = text.removeprefix("+")
    return int(digits) if digits.isascii() and digits.isdecimal() else None


def parse_time(text: str) -> int:
    """Nanoseconds; clients make Unix seconds of whatever their users write."""
    if not text:
        return 0
    match = _UNIX_TIME.fullmatch(text)
    if match is None:
        # Docker lets Go's parser error through unclassified, which makes it a 500.
        raise InternalError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    seconds, fraction = match.groups(default="")
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


async def _wait_until_stopped(request: Request, container_id: str) -> None:
    """Returns when the container does not run any more, or is gone."""
    while True:
        call = request.engine.containers.Wait(
            pb.WaitRequest(ref=container_id, condition="not-running")
        )
        try:
            async for reply in call:
                if not reply.registered:
                    return
        except grpc.aio.AioRpcError as error:
            if not isinstance(from_rpc(error), Unavailable):
                return
        finally:
            call.cancel()


ROUTES = (Route("GET", "/containers/{name}/logs", logs),)
