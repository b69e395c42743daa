"""Library of lifecycle: a container's volumes, mounted from its start to its exit."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from common.errors import EngineError, InternalError
from common.ids import new_id
from lifecycle import staging
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, describe
from lifecycle.engine import Engine

log = logging.getLogger(__name__)


async def mount(engine: Engine, container: Container) -> None:
    """What was mounted before a failure is unmounted by whoever undoes the start."""
    for point in volumes(container.record):
        try:
            point.source = await engine.volumes.mount(point.name, _user(container, point))
        except EngineError as error:
            text = f"error while mounting volume '{point.source}': {error}"
            raise InternalError(text) from error
        attributes = {
            "container": container.id,
            "destination": point.destination,
            "driver": point.driver,
            "propagation": point.propagation,
            "read/write": str(point.read_write).lower(),
        }
        engine.events.publish("volume", "mount", point.name, attributes)


@asynccontextmanager
async def lent(engine: Engine, container: Container) -> AsyncIterator[dict[str, str]]:
    """The volumes of a container that does not run, for a job on its files; see staging.mount."""
    job = new_id()
    staged: dict[str, str] = {}
    try:
        for point in volumes(container.record):
            point.source = await engine.volumes.mount(point.name, _user(container, point, job))
        staged = staging.mount(engine, container, None)  # a job sees no mapping
        yield staged
    finally:
        staging.unmount(engine, staged)
        for point in volumes(container.record):
            await engine.volumes.unmount(point.name, _user(container, point, job))


async def unmount(engine: Engine, container: Container) -> None:
    """Harmless for what is not mounted. A failure has nobody to be told to."""
    for point in volumes(container.record):
        try:
            was_mounted = await engine.volumes.unmount(point.name, _user(container, point))
        except (EngineError, OSError) as error:
            log.warning("unmounting %s of %s: %s", point.name, describe(container), error)
            was_mounted = True
        if was_mounted:
            attributes = {"container": container.id, "driver": point.driver}
            engine.events.publish("volume", "unmount", point.name, attributes)


def adopt(engine: Engine, live: Iterable[str]) -> None:
    """After a start of lifecycle: the containers that run have their volumes still."""
    for container_id in live:
        container = engine.containers.get(container_id)
        if container is not None:
            for point in volumes(container.record):
                engine.volumes.adopt(point.name, _user(container, point), point.driver)


def volumes(record: pb.Container) -> list[pb.MountPoint]:
    return [point for point in record.mounts if point.type == "volume"]


def _user(container: Container, point: pb.MountPoint, job: str = "") -> str:
    return f"{container.id}:{point.destination}:{job}"
