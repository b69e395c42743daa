"""longshored: a container's files: archive (docker cp), export, and what differs from the image.

Tars go between the client and lifecycle by transfer.py; here are the heads around them.
"""

from __future__ import annotations

import base64
import stat
from typing import cast

import orjson
from aiohttp import web

from common.errors import InvalidArgument
from common.times import rfc3339_nano
from compat_api.connection import Connection
from compat_api.errors import status_and_message
from compat_api.raw_body import RawBody
from compat_api.request import COMMON_HEADERS, Request
from compat_api.routes import Answer, Empty, Json, Route
from compat_api.transfer import direct_download, upload
from lifecycle._pb import containers_pb2 as pb

STAT_HEADER = "X-Docker-Container-Path-Stat"

# Go's os.FileMode: permissions as in st_mode, types and the rest at the other end.
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_file_mode(mode: int) -> int:
    go_mode = mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in _GO_BITS:
        if mode & bit:
            go_mode |= go_bit
    return go_mode


def stat_header(found: pb.PathStat) -> str:
    body = {
        "name": found.name,
        "size": found.size,
        "mode": go_file_mode(found.mode),
        "mtime": rfc3339_nano(found.mtime),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(orjson.dumps(body)).decode()


def path_parameter(request: Request) -> str:
    path = request.text("path")
    if not path:
        raise InvalidArgument("bad parameter: pathcannot be empty")  # so in Docker
    return path


async def stat_path(request: Request) -> Answer:
    found = await _stat(request)
    return web.Response(headers={**COMMON_HEADERS, STAT_HEADER: stat_header(found)})


async def _stat(request: Request) -> pb.PathStat:
    path = path_parameter(request)
    return await request.engine.containers.StatPath(pb.PathRequest(ref=request.name, path=path))


async def get_archive(request: Request) -> Answer:
    found = await _stat(request)
    containers = request.engine.containers
    return await direct_download(
        request,
        "application/x-tar",
        lambda stream: containers.GetArchive(
            pb.ArchiveRequest(ref=request.name, path=path_parameter(request), stream=stream)
        ),
        headers={STAT_HEADER: stat_header(found)},
    )


async def put_archive(request: Request) -> Answer:
    raw = cast(Connection, request.http.protocol).raw_body
    if raw is not None and await raw.is_plain():
        return await _put_raw(request, raw)
    if raw is not None:
        raw.release()
    path = path_parameter(request)
    async with upload(request, request.http.content.iter_any()) as stream:
        await request.engine.containers.PutArchive(
            pb.ArchiveRequest(
                ref=request.name,
                path=path,
                stream=stream,
                no_overwrite_dir_non_dir=request.flag("noOverwriteDirNonDir"),
                copy_uid_gid=request.flag("copyUIDGID"),
            )
        )
    return Empty(200)


async def _put_raw(request: Request, raw: RawBody) -> Answer:
    try:
        asked = pb.ArchiveRequest(
            ref=request.name,
            path=path_parameter(request),
            stream=await raw.offer(request.engine.paths),
            no_overwrite_dir_non_dir=request.flag("noOverwriteDirNonDir"),
            copy_uid_gid=request.flag("copyUIDGID"),
        )
        await request.engine.containers.PutArchive(asked)
    except Exception as error:
        # How much of the body was read is not known: the connection cannot be used again.
        raw.drop()
        status, message = status_and_message(error)
        response = web.json_response({"message": message}, status=status, headers=COMMON_HEADERS)
        response.force_close()
        return response
    raw.finish()
    return Empty(200)


async def export(request: Request) -> Answer:
    containers = request.engine.containers
    await containers.Get(pb.ContainerRef(ref=request.name))  # its error is an ordinary response
    return await direct_download(
        request,
        "application/octet-stream",
        lambda stream: containers.Export(pb.ExportRequest(ref=request.name, output=stream)),
    )


async def changes(request: Request) -> Answer:
    reply = await request.engine.containers.GetChanges(pb.ContainerRef(ref=request.name))
    found = [{"Path": change.path, "Kind": change.kind} for change in reply.changes]
    return Json(found or None)


ROUTES = (
    Route("HEAD", "/containers/{name}/archive", stat_path),
    Route("GET", "/containers/{name}/archive", get_archive),
    Route("PUT", "/containers/{name}/archive", put_archive),
    Route("GET", "/containers/{name}/export", export),
    Route("GET", "/containers/{name}/changes", changes),
)
