"""Library of lifecycle: removing a container and all that is its own."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from common.errors import Conflict, EngineError, NotFound
from lifecycle import status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, Outcome, describe, release
from lifecycle.engine import Engine
from lifecycle.start import discard_bundle, previous_run, release_network

log = logging.getLogger(__name__)


async def remove_locked(engine: Engine, container: Container, *, volumes: bool) -> None:
    """Make a stopped container vanish; the caller holds its lock.

    It is gone from every list when its row is deleted; its directories go afterwards, and what a
    crash leaves of them is swept at the next start, since no record names them.
    """
    engine.containers.transition(container, pb.REMOVING)
    await _abandon(container)
    await release_network(engine, container)
    engine.containers.remove(container)
    if volumes:
        await _delete_anonymous_volumes(engine, container)
    engine.publish(container, "destroy")
    release(container.removal_waiters, Outcome(container.record.state.exit_code))
    release(container.exit_waiters, Outcome(container.record.state.exit_code))
    engine.spawn(_delete_files(engine, container), f"cleaning of {describe(container)}")


async def _abandon(container: Container) -> None:
    """End a shim whose container never started; after an exit it ends by itself."""
    shim = container.shim
    if shim is not None and container.ending is None:
        with suppress(EngineError):
            await shim.call("abandon")


async def _delete_files(engine: Engine, container: Container) -> None:
    await previous_run(container)
    discard_bundle(engine.paths.shim(container.id))
    await engine.images.remove_container(container.id)
    await asyncio.to_thread(_delete_directory, engine.paths.container(container.id))
    container.execs.clear()  # their timers have it for minutes


def _delete_directory(directory: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


async def _delete_anonymous_volumes(engine: Engine, container: Container) -> None:
    for point in container.record.mounts:
        if point.type != "volume":
            continue
        try:
            if (await engine.volumes.get(point.name)).anonymous:
                await engine.volumes.remove(point.name)
        except (NotFound, Conflict):
            continue  # another container has it, or it is gone already
        except EngineError as error:
            log.warning("removing volume %s of %s: %s", point.name, describe(container), error)


async def remove(engine: Engine, container: Container, *, force: bool, volumes: bool) -> None:
    """``docker rm``; with ``force`` a running container is killed first."""
    while True:
        if container.has_process or container.status == status.RESTARTING:
            if not force:
                raise Conflict(_refusal(container))
            container.removing = True
            if container.restart_task is not None:
                container.restart_task.cancel()
            await _kill(container)
        async with container.lock:
            if container.id not in engine.containers:
                return  # its own auto-removal was faster
            if container.has_process:
                continue  # it was just being started
            if container.status == status.RESTARTING:
                engine.containers.transition(container, pb.EXITED)
            await remove_locked(engine, container, volumes=volumes)
            return


async def _kill(container: Container) -> None:
    """SIGKILL, and wait until the exit has been taken."""
    if not container.has_process:
        return
    waiter = container.next_exit()
    shim = container.shim
    if shim is not None:
        with suppress(EngineError):
            await shim.call("signal", signal=9, all=True)
    await waiter


def _refusal(container: Container) -> str:
    state = status.NAMES[container.status]
    advice = {
        status.PAUSED: "unpause and then stop the container before removing or force remove",
        status.RESTARTING: "stop the container before removing or force remove",
    }.get(container.status, "stop the container before removing or force remove")
    return f'cannot remove container "{container.name}": container is {state}: {advice}'
