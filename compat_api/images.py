"""longshored: /images, /distribution and /auth; transfers are in image_transfers.py."""

from __future__ import annotations

from common.errors import InvalidArgument
from compat_api import image_json, image_search, reference
from compat_api.request import Request, auth_config
from compat_api.routes import Answer, Empty, Json, Route
from lifecycle._pb import images_pb2 as pb
from lifecycle._pb import system_pb2


async def list_images(request: Request) -> Answer:
    found = await request.engine.images.List(
        pb.ListImagesRequest(
            all=request.flag("all"),
            filters=request.filters(),
            shared_size=request.flag("shared-size"),
        )
    )
    return Json([image_json.summary(image) for image in found.images])


async def inspect(request: Request) -> Answer:
    if request.flag("manifests") and request.text("platform"):
        raise InvalidArgument(
            "conflicting options: manifests and platform options cannot both be set"
        )
    return Json(image_json.inspect(await _get(request)))


async def history(request: Request) -> Answer:
    return Json(image_json.history(await _get(request)))


async def _get(request: Request) -> pb.Image:
    platform = reference.parse_platform(request.text("platform"))
    ref = pb.ImageRef(ref=request.name, platform=platform)
    image: pb.Image = await request.engine.images.Get(ref)
    return image


async def tag(request: Request) -> Answer:
    repository = request.text("repo")
    if not repository:
        raise InvalidArgument("invalid reference format: repo is empty")
    target = reference.join(repository, request.text("tag"))
    await request.engine.images.Tag(pb.TagRequest(source=request.name, reference=target))
    return Empty(201)


async def remove(request: Request) -> Answer:
    if not request.name.strip():
        raise InvalidArgument("image name cannot be blank")
    platforms = request.texts("platforms")
    if len(platforms) > 1:
        raise InvalidArgument("multiple platforms are not supported")
    reply = await request.engine.images.Remove(
        pb.RemoveImageRequest(
            ref=request.name,
            force=request.flag("force"),
            no_prune=request.flag("noprune"),
            platform=reference.parse_platform(platforms[0]) if platforms else "",
        )
    )
    return Json(image_json.removed(reply))


async def prune(request: Request) -> Answer:
    reply = await request.engine.images.Prune(pb.PruneImagesRequest(filters=request.filters()))
    return Json(
        {
            "ImagesDeleted": image_json.removed(reply) or None,
            "SpaceReclaimed": reply.space_reclaimed,
        }
    )


async def search(request: Request) -> Answer:
    return Json(await image_search.search(request))


async def inspect_remote(request: Request) -> Answer:
    remote = await request.engine.images.Inspect(
        pb.InspectRemoteRequest(reference=request.name, auth=request.registry_auth())
    )
    return Json(image_json.remote(remote))


async def login(request: Request) -> Answer:
    auth = auth_config(await request.json())
    reply = await request.engine.system.Login(system_pb2.LoginRequest(auth=auth))
    return Json({"IdentityToken": reply.identity_token, "Status": reply.status})


ROUTES = (
    Route("GET", "/images/json", list_images),
    Route("GET", "/images/search", search),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("POST", "/images/{name}/tag", tag),
    Route("POST", "/images/prune", prune),
    Route("DELETE", "/images/{name}", remove),
    Route("GET", "/distribution/{name}/json", inspect_remote),
    Route("POST", "/auth", login),
)
