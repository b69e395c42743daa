"""Library of lifecycle: what clients do to a container that exists: stop, kill, pause, rename, wait
...

Starting is in start.py, removing in remove.py, the end of a run in exits.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from common.errors import Conflict, EngineError, InternalError, InvalidArgument
from lifecycle import attachment, health, names, signals, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, Outcome
from lifecycle.detach import parse_keys
from lifecycle.engine import Engine
from lifecycle.spec import cgroup_path
from lifecycle.start import ensure_shim, start_locked
from lifecycle.surroundings import DEFAULT_CGROUP_PARENT

DEFAULT_STOP_SECONDS = 10
KILL_SECONDS = 10  # how long SIGKILL may take until a client is told that it does not help
SIGKILL = 9


async def start(engine: Engine, container: Container) -> bool:
    """True if it was running already."""
    if container.status == status.PAUSED:
        raise Conflict("cannot start a paused container, try unpause instead")
    if container.has_process:
        return True
    async with container.lock:
        if container.has_process:
            return True
        if container.status in (status.REMOVING, status.DEAD):
            raise Conflict("container is marked for removal and cannot be started")
        if container.restart_task is not None:
            container.restart_task.cancel()
            container.restart_task = None
        state = container.record.state
        state.restart_count, state.stopped_by_user = 0, False
        container.restart_delay, container.stopping = 0.0, False
        await start_locked(engine, container)
    return False


async def stop(
    engine: Engine, container: Container, *, timeout: int | None, signal: str = ""
) -> bool:
    """True if it was stopped already. A negative timeout waits for ever."""
    if container.status == status.RESTARTING:
        await _stop_restarting(engine, container)
        if not container.has_process:
            return False
    if not container.has_process:
        return True
    config = container.record.config
    number = signals.parse(signal or config.stop_signal or "TERM")
    if timeout is None:
        timeout = config.stop_timeout if config.HasField("stop_timeout") else DEFAULT_STOP_SECONDS
    container.stopping = True
    container.record.state.stopped_by_user = True
    waiter = container.next_exit()
    await _signal(engine, container, number)
    if not await _ended(waiter, timeout if timeout >= 0 else None):
        await _signal(engine, container, SIGKILL)
        if not await _ended(waiter, KILL_SECONDS):
            raise InternalError(
                f"container {container.id} did not end within {KILL_SECONDS} s of SIGKILL"
            )
    engine.publish(container, "stop")
    return False


async def _stop_restarting(engine: Engine, container: Container) -> None:
    """A container that waits for its next automatic start is stopped by not starting it.

    It may be just being started: then it runs afterwards, and is stopped like any other.
    """
    container.stopping = True
    container.record.state.stopped_by_user = True
    async with container.lock:
        if container.status != status.RESTARTING:
            return
        if container.restart_task is not None:
            container.restart_task.cancel()
            container.restart_task = None
        engine.containers.transition(container, pb.EXITED)
        engine.containers.save_state(container)
        engine.publish(container, "stop")


async def _ended(waiter: asyncio.Future[Outcome], seconds: float | None) -> bool:
    try:
        await asyncio.wait_for(asyncio.shield(waiter), seconds)
    except TimeoutError:
        return False
    return True


async def _signal(engine: Engine, container: Container, number: int) -> None:
    """A process that has ended meanwhile needs no signal; a frozen one has to thaw to end."""
    shim = container.shim
    if shim is None:
        return
    with suppress(EngineError):
        await shim.call("signal", signal=number, all=False)
        engine.publish(container, "kill", {"signal": str(number)})
        if container.status == status.PAUSED:
            if number != SIGKILL:  # then the shim has thawed it already
                await shim.call("resume")
            _thawed(container)


def _thawed(container: Container) -> None:
    """A signal has let it run again; its exit, which is to come, saves that."""
    container.record.state.status = pb.RUNNING
    container.row.record_changed()


async def restart(
    engine: Engine, container: Container, *, timeout: int | None, signal: str = ""
) -> None:
    container.restarting = True
    try:
        await stop(engine, container, timeout=timeout, signal=signal)
        await start(engine, container)
    finally:
        container.restarting = False
    engine.publish(container, "restart")


async def kill(engine: Engine, container: Container, signal: str) -> None:
    number = signals.parse(signal or "KILL")
    if not container.has_process or container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    stop_signal = signals.parse(container.record.config.stop_signal or "TERM")
    if number in (SIGKILL, stop_signal):
        container.stopping = True
    container.record.state.stopped_by_user = True
    waiter = container.next_exit() if number == SIGKILL else None
    shim = container.shim
    await shim.call("signal", signal=number, all=False)
    engine.publish(container, "kill", {"signal": str(number)})
    if container.status == status.PAUSED and number == SIGKILL:
        _thawed(container)  # by the shim, else it could not die
    if waiter is not None:
        await _ended(waiter, KILL_SECONDS)


async def pause(engine: Engine, container: Container) -> None:
    async with container.lock:
        if container.status == status.PAUSED:
            raise Conflict(f"Container {container.id} is already paused")
        if not container.has_process or container.shim is None:
            raise Conflict(f"container {container.id} is not running")
        await container.shim.call("pause")
        engine.containers.transition(container, pb.PAUSED)
        health.end(container)
        engine.containers.save_state(container)
    engine.publish(container, "pause")


async def unpause(engine: Engine, container: Container) -> None:
    async with container.lock:
        if container.status != status.PAUSED or container.shim is None:
            raise InternalError(f"Container {container.id} is not paused")
        await container.shim.call("resume")
        engine.containers.transition(container, pb.RUNNING)
        health.watch(engine, container)
        engine.containers.save_state(container)
    engine.publish(container, "unpause")


async def rename(engine: Engine, container: Container, new: str) -> None:
    if not new:
        raise InvalidArgument("Neither old nor new names may be empty")
    try:
        new = names.check(f"/{new.removeprefix('/')}")
    except InvalidArgument as error:
        raise InvalidArgument(f"Error when allocating new name: {error}") from error
    async with container.lock:
        old = container.name
        if new == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        try:
            engine.containers.rename(container, new)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}") from error
        engine.networks.rename(container.id, new)
        attachment.refresh_names(engine, container)
    engine.publish(container, "rename", {"oldName": f"/{old}"})


async def resize(engine: Engine, container: Container, height: int, width: int) -> None:
    if not container.has_process or container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    await container.shim.call("resize", exec_id=None, height=height, width=width)
    engine.publish(container, "resize", {"height": str(height), "width": str(width)})


async def wait(container: Container, condition: str) -> AsyncIterator[pb.WaitReply]:
    """Yield once the wait stands, and again with its result."""
    state = container.record.state
    match condition or "not-running":
        case "not-running":
            if not container.has_process:
                yield pb.WaitReply(registered=True)
                yield pb.WaitReply(exit_code=state.exit_code)
                return
            waiter = container.next_exit()
        case "next-exit":
            waiter = container.next_exit()
        case "removed":
            waiter = container.removal()
        case _:
            raise InvalidArgument(f'invalid condition: "{condition}"')
    yield pb.WaitReply(registered=True)
    try:
        outcome = await waiter
    finally:
        for waiters in (container.exit_waiters, container.removal_waiters):
            with suppress(ValueError):
                waiters.remove(waiter)
    yield pb.WaitReply(exit_code=outcome.exit_code)


async def attach(engine: Engine, request: pb.AttachRequest) -> pb.AttachReply:
    """Join a client to the standard streams; before the start too."""
    with engine.streams.claimed(request.stream.token) as descriptor:
        return await _attach(engine, request, descriptor)


async def _attach(engine: Engine, request: pb.AttachRequest, descriptor: int) -> pb.AttachReply:
    container = engine.containers.find(request.ref)
    config = container.record.config
    keys = parse_keys(request.detach_keys)
    _check_attachable(container)
    if request.wait_only or container.status in (status.REMOVING, status.DEAD):
        return pb.AttachReply(joined=False, tty=config.tty)
    shim = await ensure_shim(engine, container)
    os.write(descriptor, request.stream.head_tty if config.tty else request.stream.head_plain)
    await shim.call(
        "attach",
        [descriptor],
        stdin=request.stdin and config.open_stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        framed=not config.tty,
        detach_keys=keys if config.tty and request.stdin else [],
        early=base64.b64encode(request.stream.early).decode(),
    )
    engine.publish(container, "attach")
    return pb.AttachReply(joined=True, tty=config.tty)


def _check_attachable(container: Container) -> None:
    advice = {
        status.PAUSED: "paused, unpause the container before attach",
        status.RESTARTING: "restarting, wait until the container is running",
    }.get(container.status)
    if advice is not None:
        raise Conflict(f"container {container.id} is {advice}")


def process_ids(engine: Engine, container: Container) -> list[int]:
    """All tasks' groups in the container's cgroup, read from the kernel."""
    if container.status == status.RESTARTING:
        raise Conflict(
            f"Container {container.id} is restarting, wait until the container is running"
        )
    if not container.has_process:
        raise Conflict(f"container {container.id} is not running")
    path = Path("/sys/fs/cgroup") / cgroup_directory(engine, container) / "cgroup.procs"
    return [int(line) for line in path.read_text().split()]


def cgroup_directory(engine: Engine, container: Container) -> str:
    controller = "" if engine.cgroup_version == 2 else "pids/"
    return (
        controller
        + cgroup_path(container.record, engine.options.cgroup_parent or DEFAULT_CGROUP_PARENT)[1:]
    )
