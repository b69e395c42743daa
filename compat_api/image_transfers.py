"""longshored: what moves whole images: pull, push, import, save, load.

Progress comes over gRPC, tars go past it (transfer.py). Ending a gRPC call ends the work, so a
client that hangs up stops its pull.
"""

from __future__ import annotations

from aiohttp import ClientError, ClientSession, ClientTimeout

from common.errors import InternalError, InvalidArgument, PermissionDenied
from compat_api import reference
from compat_api.progress import send_all
from compat_api.request import Request
from compat_api.routes import Answer, Route
from compat_api.streams import JsonStream
from compat_api.transfer import CHUNK, download, upload
from lifecycle._pb import images_pb2 as pb
from lifecycle._pb import types_pb2

TAR = "application/x-tar"
RESERVED = ("scratch", "library/scratch", "docker.io/library/scratch")


async def create(request: Request) -> Answer:
    """POST /images/create pulls, or imports a root filesystem's tar."""
    if request.text("fromImage"):
        return await pull(request)
    if request.text("fromSrc"):
        return await import_tar(request)
    raise InvalidArgument("either fromImage or fromSrc must be given")


async def pull(request: Request) -> Answer:
    # "pull --all-tags" of some clients leaves the colon behind.
    name = request.text("fromImage").removesuffix(":")
    tag = request.text("tag")
    if reference.bare(name) in RESERVED:
        raise PermissionDenied(f"'{reference.bare(name)}' is a reserved name")
    call = request.engine.images.Pull(
        pb.PullRequest(
            reference=reference.join(name, tag),
            all_tags=not tag and reference.is_bare(name),
            platform=request.text("platform"),
            auth=request.registry_auth(),
        )
    )
    async with JsonStream(request) as stream:
        await send_all(stream, call)
    return await stream.finish()


async def push(request: Request) -> Answer:
    tag = request.text("tag")
    call = request.engine.images.Push(
        pb.PushRequest(
            reference=reference.join(request.name, tag),
            all_tags=not tag and reference.is_bare(request.name),
            auth=request.registry_auth(),
            platform=reference.one_platform(request.texts("platform")),
        )
    )
    async with JsonStream(request) as stream:
        await send_all(stream, call)
    return await stream.finish()


async def import_tar(request: Request) -> Answer:
    source = request.text("fromSrc")
    if source == "-":
        async with upload(request, request.http.content.iter_any()) as tar:
            return await _import(request, tar, JsonStream(request))
    url = source if "://" in source else f"http://{source}"
    stream = JsonStream(request)
    async with ClientSession(timeout=ClientTimeout(total=None, sock_connect=60)) as session:
        try:
            response = await session.get(url)
        except (ClientError, OSError, ValueError) as error:
            raise InternalError(f'Get "{url}": {error}') from error
        if response.status != 200:
            raise InternalError(f'Get "{url}": {response.status} {response.reason}')
        await stream.send({"status": f"Downloading from {url}"})
        async with upload(request, response.content.iter_chunked(CHUNK)) as tar:
            return await _import(request, tar, stream)


async def _import(request: Request, tar: types_pb2.Stream, stream: JsonStream) -> Answer:
    call = request.engine.images.Import(
        pb.ImportRequest(
            input=tar,
            reference=reference.join(request.text("repo"), request.text("tag")),
            changes=[line for text in request.texts("changes") for line in text.splitlines()],
            message=request.text("message"),
            platform=request.text("platform"),
        )
    )
    async with stream:
        await send_all(stream, call)
    return await stream.finish()


async def load(request: Request) -> Answer:
    async with upload(request, request.http.content.iter_any()) as tar:
        call = request.engine.images.Load(
            pb.LoadRequest(
                input=tar,
                quiet=request.flag("quiet", default=True),
                platform=reference.one_platform(request.texts("platform")),
            )
        )
        async with JsonStream(request) as stream:
            # A tar that cannot be read is an error in the stream, as in Docker.
            await stream.begin()
            await send_all(stream, call)
        return await stream.finish()


async def save(request: Request) -> Answer:
    """GET /images/get?names=... and GET /images/{name}/get."""
    names = [request.name] if request.name else request.texts("names")
    platform = reference.one_platform(request.texts("platform"))
    images = request.engine.images
    return await download(
        request,
        TAR,
        lambda tar: images.Save(pb.SaveRequest(references=names, output=tar, platform=platform)),
    )


ROUTES = (
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("GET", "/images/get", save),
    Route("GET", "/images/{name}/get", save),
    Route("POST", "/images/{name}/push", push),
)
