"""Library of lifecycle: ``docker commit``: an image of what a container has become.

The layer is made by the images worker from the container's upper directory; here is the
configuration, which is what the client gives, or the container's, with the changes applied, and
the container's again for what is still open (moby daemon/commit.go).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from common.errors import Conflict, EngineError, InvalidArgument
from images import changes as dockerfile
from images.model import Healthcheck, ImageConfig
from lifecycle import operations, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.image_defaults import merge_image


async def commit(engine: Engine, request: pb.CommitRequest) -> pb.CommitReply:
    if not request.ref:
        raise InvalidArgument('invalid name or ID supplied: ""')
    container = engine.containers.find(request.ref)
    if container.status in (status.REMOVING, status.DEAD):
        name = status.NAMES[container.status].capitalize()
        raise Conflict(f"You cannot commit container {container.id} which is {name}")
    record = container.record
    base = engine.images.resolve(record.image_id)
    config = _configuration(request, record.config)
    async with _paused(engine, container, wanted=request.pause):
        image = await engine.images.commit(
            container.id,
            image=base,
            image_config=config,
            name=request.reference or None,
            author=request.author,
            comment=request.comment,
            created_by=" ".join(record.config.cmd.values),
        )
        engine.events.publish("image", "create", image.id, {"name": image.id})
        name = _familiar(image.repo_tags, request.reference)
        if name:
            engine.events.publish("image", "tag", image.id, {"name": name})
        attributes = {"comment": request.comment, "imageID": image.id, "imageRef": name}
        engine.publish(container, "commit", attributes)
    return pb.CommitReply(id=image.id)


@asynccontextmanager
async def _paused(engine: Engine, container: Container, *, wanted: bool) -> AsyncIterator[None]:
    """Around the reading, so that files which belong together do not change meanwhile."""
    if not wanted or container.status != status.RUNNING:
        yield
        return
    # It may end by itself at any moment; then there is nothing to be paused.
    with suppress(EngineError):
        await engine.finish(operations.pause(engine, container), "pause for a commit")
    try:
        yield
    finally:
        if container.status == status.PAUSED:
            with suppress(EngineError):
                await engine.finish(operations.unpause(engine, container), "unpause for a commit")


def _configuration(request: pb.CommitRequest, own: pb.Config) -> ImageConfig:
    if not request.HasField("config"):
        return dockerfile.apply(image_config(own), list(request.changes))
    changed = dockerfile.apply(image_config(request.config), list(request.changes))
    merged = pb.Config()
    merge_image(merged, changed)
    merge_image(merged, image_config(own))
    return image_config(merged)


def image_config(config: pb.Config) -> ImageConfig:
    """The part of a container's configuration that an image has too."""
    return ImageConfig(
        user=config.user,
        exposed_ports=tuple(config.exposed_ports.values),
        env=tuple(config.env.values),
        entrypoint=tuple(config.entrypoint.values) or None,
        cmd=tuple(config.cmd.values) or None,
        volumes=tuple(config.volumes.values),
        working_dir=config.working_dir,
        labels=dict(config.labels) or None,
        stop_signal=config.stop_signal,
        stop_timeout=config.stop_timeout if config.HasField("stop_timeout") else None,
        healthcheck=_healthcheck(config.healthcheck),
        on_build=tuple(config.on_build.values),
        shell=tuple(config.shell.values),
        args_escaped=config.args_escaped,
    )


def _healthcheck(check: pb.Healthcheck) -> Healthcheck | None:
    if not check.ByteSize():
        return None
    return Healthcheck(
        test=tuple(check.test.values),
        interval=check.interval,
        timeout=check.timeout,
        start_period=check.start_period,
        start_interval=check.start_interval,
        retries=check.retries,
    )


def _familiar(tags: tuple[str, ...], wanted: str) -> str:
    """The new name as clients see it: the shortest way to say ``wanted``."""
    if not wanted:
        return ""
    return next((tag for tag in tags if tag in (wanted, f"{wanted}:latest")), tags[0])
