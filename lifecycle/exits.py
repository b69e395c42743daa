"""Library of lifecycle: what happens when a container's process has ended.

One path for every way to learn of it: the shim's event, the exit record that it left while nobody
listened, or its death. Waiters are released last but for what nobody waits for, so that a client
that was told of the exit finds the ports free and the events written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import orjson

from common.errors import EngineError
from lifecycle import health, status, volume_use
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, Outcome, describe, release
from lifecycle.engine import Engine
from lifecycle.remove import remove_locked
from lifecycle.spec import cgroup_path
from lifecycle.start import discard_bundle, release_network, start_locked
from lifecycle.surroundings import DEFAULT_CGROUP_PARENT
from runtime import leftovers

log = logging.getLogger(__name__)

KILLED = 137  # 128 + SIGKILL
UNKNOWN = 255  # nobody saw the end

FIRST_DELAY = 0.1  # seconds before an automatic restart, doubled each time
LONGEST_DELAY = 60.0
STEADY_SECONDS = 10.0  # a run this long starts over with the first delay


def on_event(engine: Engine, container: Container, event: dict[str, Any]) -> None:
    """What a shim reports."""
    match event.get("event"):
        case "exit":
            container.ending = asyncio.get_running_loop().create_future()
            engine.spawn(exited(engine, container, event), f"exit of {describe(container)}")
        case "exec_exit":
            found = container.execs.get(event["exec_id"])
            if found is not None:
                found.exited(int(event["exit_code"]))
        case "oom":
            engine.publish(container, "oom")
        case "detach":
            engine.publish(container, "detach")


def on_close(engine: Engine, container: Container) -> None:
    """The shim is gone; after an exit that is its normal end."""
    shim, container.shim = container.shim, None
    if shim is not None:
        shim.close()
    for found in list(container.execs.values()):
        found.lost()
    ending, container.ending = container.ending, None
    if ending is not None:
        discard_bundle(engine.paths.shim(container.id))
        ending.set_result(None)
    elif container.has_process:
        engine.spawn(lost(engine, container), f"loss of the shim of {describe(container)}")


async def lost(engine: Engine, container: Container) -> None:
    """The shim died before it could report: take its record, or end what it left."""
    record = read_record(engine.paths.shim(container.id))
    if record is None:
        await asyncio.to_thread(clean_leftovers, engine, container.id)
        record = {"exit_code": KILLED, "oom_killed": False, "exited_at": time.time_ns()}
    await exited(engine, container, record)
    discard_bundle(engine.paths.shim(container.id))


async def exited(engine: Engine, container: Container, record: dict[str, Any]) -> None:
    """Take an exit into the container's record, then do what its policy says."""
    async with container.lock:
        if not container.has_process:
            return
        state = container.record.state
        run_time = (record["exited_at"] - state.started_at) / 1e9
        state.exit_code = int(record["exit_code"])
        state.oom_killed = bool(record["oom_killed"])
        state.finished_at = int(record["exited_at"])
        state.pid = 0
        restart = wants_restart(container)
        health.end(container)
        engine.containers.transition(container, pb.RESTARTING if restart else pb.EXITED)
        engine.containers.save_state(container)
        attributes = {"exitCode": str(state.exit_code), "execDuration": str(int(run_time))}
        await release_network(engine, container)
        await volume_use.unmount(engine, container)
        engine.publish(container, "die", attributes)
        outcome = Outcome(state.exit_code)
        if restart:
            if run_time >= STEADY_SECONDS:
                container.restart_delay = 0.0
            restart_later(engine, container)
        stays = restart or container.restarting or container.removing
        if container.record.host_config.auto_remove and not stays:
            await remove_locked(engine, container, volumes=True)
        release(container.exit_waiters, outcome)


def on_start_failed(engine: Engine, container: Container) -> None:
    """A container with auto-removal that could not be started is removed all the same."""

    async def work() -> None:
        async with container.lock:
            if container.id in engine.containers:
                await remove_locked(engine, container, volumes=True)

    engine.spawn(work(), f"removal of {describe(container)}")


def wants_restart(container: Container) -> bool:
    """What the restart policy says of an exit that has just happened."""
    policy, state = container.record.host_config.restart_policy, container.record.state
    if container.stopping or container.removing:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    return policy.name == "on-failure" and _has_retries(policy, state)


def wants_start(container: Container) -> bool:
    """What the restart policy says of a stopped container when the engine is started."""
    policy, state = container.record.host_config.restart_policy, container.record.state
    if policy.name == "always":
        return True
    if state.stopped_by_user:
        return False
    return policy.name == "unless-stopped" or (
        policy.name == "on-failure" and _has_retries(policy, state)
    )


def _has_retries(policy: pb.RestartPolicy, state: pb.State) -> bool:
    if state.exit_code == 0:
        return False
    return not policy.maximum_retry_count or state.restart_count < policy.maximum_retry_count


def restart_later(engine: Engine, container: Container) -> None:
    """After a delay; a stop or a removal by a client takes the task back."""
    container.restart_task = engine.spawn(
        _restart_later(engine, container), f"restart of {describe(container)}"
    )


def next_delay(delay: float) -> float:
    """How long to wait after a wait of ``delay``; 0: there was none."""
    return min(delay * 2 or FIRST_DELAY, LONGEST_DELAY)


async def _restart_later(engine: Engine, container: Container) -> None:
    container.restart_delay = next_delay(container.restart_delay)
    await asyncio.sleep(container.restart_delay)
    async with container.lock:
        container.restart_task = None
        if container.status != status.RESTARTING or container.stopping or container.removing:
            return
        container.record.state.restart_count += 1
        try:
            await start_locked(engine, container)
        except EngineError as error:
            log.warning("restart of %s failed: %s", describe(container), error)
            engine.containers.transition(container, pb.EXITED)
            engine.containers.save_state(container)
            release(container.exit_waiters, Outcome(container.record.state.exit_code))


def read_record(bundle: Path) -> dict[str, Any] | None:
    """The exit that a shim wrote down; None if it wrote none."""
    try:
        record: dict[str, Any] = orjson.loads((bundle / "exit").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    return record


def clean_leftovers(engine: Engine, container_id: str) -> None:
    """End and remove what a dead shim left in the kernel and below /run."""
    parent = engine.options.cgroup_parent or DEFAULT_CGROUP_PARENT
    container = engine.containers.get(container_id)
    record = container.record if container else pb.Container(id=container_id)
    leftovers.clean(container_id, engine.paths.runtime_state, cgroup_path(record, parent))
