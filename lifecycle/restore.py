"""Library of lifecycle: making the records agree with the kernel after a start of this process.

A container that runs has a shim that listens; one that ended while nobody looked has left an exit
record; one with neither was lost with its shim, or with the machine (an empty /run). Directories
that no record names are what a crash left of a creation or a removal.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path

from common.errors import EngineError
from common.ids import FULL_ID
from lifecycle import (
    connections,
    exits,
    health,
    operations,
    remote_endpoints,
    staging,
    status,
    volume_use,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, describe
from lifecycle.engine import Engine
from lifecycle.exits import clean_leftovers
from lifecycle.remove import remove_locked
from lifecycle.shims import reconnect
from lifecycle.start import discard_bundle
from shim.protocol import Message

log = logging.getLogger(__name__)

# All shims together get this long to answer; one that hangs must not keep the engine from starting.
ADOPTION_SECONDS = 20.0


async def restore(engine: Engine) -> None:
    """Adopt what runs, take the exits that were missed, sweep what nobody owns."""
    was_up = [item for item in engine.containers if item.has_process]
    lost: list[tuple[Container, Message]] = []
    async with asyncio.timeout(ADOPTION_SECONDS):
        found = await asyncio.gather(*(_adopt(engine, item) for item in was_up))
    lost = [(item, record) for item, record in zip(was_up, found, strict=True) if record]
    live = {item.id for item in was_up} - {item.id for item, _ in lost}
    await remote_endpoints.adopt(engine, live)
    changed = connections.settle(engine, live)
    remote_endpoints.resume(engine)
    volume_use.adopt(engine, live)
    staging.sweep(engine)
    await asyncio.to_thread(_sweep, engine, live)
    await connections.tell_shims(engine, changed)
    await engine.volumes.sweep()
    for item, record in lost:
        await exits.exited(engine, item, record)
        discard_bundle(engine.paths.shim(item.id))
    health.resume_all(engine)
    for item in list(engine.containers):
        if remote_endpoints.wanted(engine, item.record):
            # A plugin that hangs must not keep the engine from starting.
            engine.spawn(_settle(engine, item), f"start of {describe(item)}")
        else:
            await _settle(engine, item)


async def _adopt(engine: Engine, container: Container) -> Message | None:
    """Connect to the shim; else the exit that its container must have had."""
    try:
        shim = await reconnect(
            engine.paths,
            container.id,
            lambda event: engine.on_shim_event(container, event),
            lambda: engine.on_shim_close(container),
        )
        container.shim = shim
        answer = await shim.call("subscribe")
    except (OSError, EngineError):
        container.shim = None
    else:
        if answer["status"] in ("running", "paused"):
            paused = answer["status"] == "paused"
            container.record.state.status = pb.PAUSED if paused else pb.RUNNING
            return None
    record = exits.read_record(engine.paths.shim(container.id))
    return record or {
        "exit_code": exits.UNKNOWN,
        "oom_killed": False,
        "exited_at": time.time_ns(),
    }


async def _settle(engine: Engine, container: Container) -> None:
    """Finish what the last process had begun, and start what shall always run."""
    if container.status == status.REMOVING:
        container.record.state.status = pb.DEAD
        async with container.lock:
            await remove_locked(engine, container, volumes=False)
        return
    if container.status == status.RESTARTING and container.restart_task is None:
        exits.restart_later(engine, container)  # it waited for its next start
    elif container.status == status.EXITED and exits.wants_start(container):
        try:
            await operations.start(engine, container)
        except EngineError as error:
            log.warning("starting %s failed: %s", describe(container), error)


def _sweep(engine: Engine, live: set[str]) -> None:
    """Remove bundles, runtime state, cgroups and directories of containers that do not run or
    exist.
    """
    for directory in _ids_in(engine.paths.shims):
        if directory.name not in live:
            clean_leftovers(engine, directory.name)
            discard_bundle(directory)
    for directory in _ids_in(engine.paths.runtime_state):
        if directory.name not in live:
            clean_leftovers(engine, directory.name)
    for directory in _ids_in(engine.paths.data_root / "containers"):
        if directory.name not in engine.containers:
            shutil.rmtree(directory)


def _ids_in(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [entry for entry in parent.iterdir() if FULL_ID.fullmatch(entry.name)]
