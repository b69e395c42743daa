"""longshored: /containers/{name}/top: the host's ps, and of its lines those of the container."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from common.errors import InternalError
from compat_api.request import Request
from compat_api.routes import Answer, Json, Route
from lifecycle._pb import containers_pb2 as pb

# A column may be renamed (``-o pid=X``), but no other column may get PID's name.
_RENAMED = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)", re.ASCII)


async def top(request: Request) -> Answer:
    arguments = request.text("ps_args") or "-ef"
    check_arguments(arguments)
    reply = await request.engine.containers.Top(pb.ContainerRef(ref=request.name))
    output = await run_ps(arguments.split(" "), list(reply.pids))
    return Json(parse_output(output, frozenset(reply.pids)))


def check_arguments(arguments: str) -> None:
    for name, value in _RENAMED.findall(arguments):
        if name != "pid":
            raise InternalError(f'specifying "{name}={value}" is not allowed')


async def run_ps(arguments: list[str], pids: list[int]) -> str:
    status, output, _ = await _run(*arguments, "-q" + ",".join(map(str, pids)))
    if status:
        # Some options, such as f, do not go with -q.
        status, output, errors = await _run(*arguments)
        if status:
            raise InternalError(f"ps: {errors.partition(chr(10))[0] or f'exit status {status}'}")
    return output


async def _run(*arguments: str) -> tuple[int, str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise InternalError('exec: "ps": executable file not found in $PATH') from None
    output, errors = await process.communicate()
    status = process.returncode or 0
    return status, output.decode(errors="replace"), errors.decode(errors="replace")


def parse_output(output: str, pids: frozenset[int]) -> dict[str, Any]:
    first, *lines = output.split("\n")
    titles = fields(first)
    if "PID" not in titles:
        raise InternalError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    processes = []
    belongs = False
    for line in filter(None, lines):
        found = fields(line)
        # A dash stands in lines of threads, which follow their process.
        if found[column] != "-":
            if not found[column].isdecimal():
                raise InternalError(f"Unexpected pid '{found[column]}': invalid syntax")
            belongs = int(found[column]) in pids
        if belongs:
            last = len(titles) - 1
            processes.append([*found[:last], " ".join(found[last:])])
    return {"Titles": titles, "Processes": processes or None}


def fields(line: str) -> list[str]:
    """Split at ASCII white space alone: a command's name may hold any other."""
    return [field for field in re.split(r"[\t\n\f\r ]+", line) if field]


ROUTES = (Route("GET", "/containers/{name}/top", top),)
