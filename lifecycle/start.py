"""Library of lifecycle: starting a container. This is the path that a user waits for.

The shim is forked while the rest is prepared; nothing here waits for a disk. A start that fails
takes back what it made: addresses, ports, the shim and its bundle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from common.errors import EngineError, InvalidArgument
from lifecycle import (
    attachment,
    etcfiles,
    health,
    jobs,
    links,
    remap,
    remote_endpoints,
    remote_start,
    spec,
    staging,
    surroundings,
    volume_use,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.logging_options import FAILURE, log_config
from lifecycle.shims import Shim
from shim.protocol import ShimError

log = logging.getLogger(__name__)

CANNOT_INVOKE, NOT_FOUND, OTHER_FAILURE = 126, 127, 128

_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: "
)
_PROCESS_PREFIX = f"{_PREFIX}unable to start container process: "


async def ensure_shim(engine: Engine, container: Container) -> Shim:
    """The container's shim, forked if there is none: at the start, or at an attach before it.

    Both may come at once. There is one fork then, since two shims of a container would fight for
    the same socket.
    """
    await previous_run(container)
    if container.shim is not None:
        return container.shim
    if container.forking is None:
        container.forking = asyncio.ensure_future(_fork_shim(engine, container))
    return await asyncio.shield(container.forking)


async def _fork_shim(engine: Engine, container: Container) -> Shim:
    try:
        engine.paths.shim(container.id).mkdir(mode=0o700, exist_ok=True)
        container.shim = await engine.zygote.fork(
            container.id,
            lambda event: engine.on_shim_event(container, event),
            lambda: engine.on_shim_close(container),
        )
        return container.shim
    finally:
        container.forking = None


async def previous_run(container: Container) -> None:
    """Wait until the shim of the run before has left the paths that the next one uses."""
    if container.ending is not None:
        await asyncio.shield(container.ending)


async def start_locked(engine: Engine, container: Container) -> None:
    """Run the container's process; the caller holds its lock and has checked its status."""
    await previous_run(container)
    await jobs.settle(container)
    shim_task = asyncio.ensure_future(ensure_shim(engine, container))
    try:
        await _start(engine, container, shim_task)
    except BaseException as error:
        await release_network(engine, container)
        await volume_use.unmount(engine, container)
        await _discard_shim(engine, container, shim_task)
        if isinstance(error, EngineError):
            raise await _start_failed(engine, container, error) from error
        raise


async def _start(engine: Engine, container: Container, shim_task: asyncio.Future[Shim]) -> None:
    record = container.record
    sockets: list[socket.socket] = []
    staged: dict[str, str] = {}
    try:
        await volume_use.mount(engine, container)
        staged = staging.mount(engine, container, remap.of(engine.remap, record.host_config))
        remote = remote_endpoints.wanted(engine, record)
        if remote:
            network = await remote_start.attach(engine, container, sockets)
        else:
            network = attachment.attach(engine, container, sockets)
        bundle = engine.paths.shim(container.id)
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        around = surroundings.gather(engine, container, staged)
        (bundle / "config.json").write_bytes(orjson.dumps(spec.build(record, around)))
        shim = await shim_task
        await attachment.send_surplus_ports(shim, sockets, network)
        call = shim.call(
            "start",
            [item.fileno() for item in sockets],
            bundle=os.fspath(bundle),
            state_root=os.fspath(engine.paths.runtime_state),
            rootfs_mounts=surroundings.rootfs_mounts(engine, container),
            seccomp_bpf=surroundings.seccomp(engine, record.host_config),
            stdin_open=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=await log_config(record),
            runtime=surroundings.runtime(engine, record.host_config.runtime),
            cgroup_parent=record.host_config.resources.cgroup_parent
            or surroundings.DEFAULT_CGROUP_PARENT,
            **network,
        )
        answer = await (remote_start.run(engine, container, call) if remote else call)
    finally:
        staging.unmount(engine, staged)  # the container has mounts of its own
        for item in sockets:
            item.close()
    _started(engine, container, answer)


def _started(engine: Engine, container: Container, answer: dict[str, Any]) -> None:
    state = container.record.state
    engine.containers.transition(container, pb.RUNNING)
    state.pid = int(answer["pid"])
    state.started_at = int(answer["started_at"])
    state.exit_code, state.error, state.oom_killed = 0, "", False
    health.begin(engine, container)
    engine.containers.save(container)
    for other in links.linked_to(engine.containers, container.id):
        etcfiles.change_addresses(other.record, links.hosts(engine.containers, other.record))
    engine.publish(container, "start")


async def _discard_shim(
    engine: Engine, container: Container, shim_task: asyncio.Future[Shim]
) -> None:
    """A shim whose start failed ends by itself; one that was never asked to start is told to."""
    with suppress(EngineError, asyncio.CancelledError):
        await (await shim_task).call("abandon")
    shim, container.shim = container.shim, None
    if shim is not None:
        await shim.gone()
    discard_bundle(engine.paths.shim(container.id))


async def _start_failed(engine: Engine, container: Container, error: EngineError) -> EngineError:
    """Docker's record of a failed start, and Docker's error for it."""
    translated = translate(error)
    state = container.record.state
    state.error = str(translated)
    code = _exit_code(error)
    # What the run before ended with is kept, unless the failure has a code of its own.
    state.exit_code = state.exit_code if code == OTHER_FAILURE and state.exit_code else code
    engine.containers.save_state(container)
    # Who waits for the next exit waits on, as with Docker, whose client prints what it would get.
    if container.record.host_config.auto_remove and not container.restarting:
        engine.on_start_failed(container)
    return translated


def _exit_code(error: EngineError) -> int:
    """Docker's daemon/errors.go, translateContainerdStartErr."""
    text = str(error)
    if "permission denied" in text or "is a directory" in text:
        return CANNOT_INVOKE
    if isinstance(error, ShimError) and (
        "executable file not found" in text or "no such file or directory" in text
    ):
        return NOT_FOUND
    return OTHER_FAILURE


def translate(error: EngineError) -> EngineError:
    """The client's text for what the runtime reports; other errors have it already."""
    if not isinstance(error, ShimError) or error.step is None:
        return error
    text = str(error)
    if error.step == "user":
        return EngineError(text)
    if error.step == "log":
        return EngineError(FAILURE + text)
    if "not a directory" in text:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the "
            "specified host path exists and is the expected type"
        )
    kind = InvalidArgument if _exit_code(error) != OTHER_FAILURE else EngineError
    # What runc refuses by looking at config.json, it refuses before it starts a process.
    return kind((_PREFIX if error.step == "config" else _PROCESS_PREFIX) + text)


async def release_network(engine: Engine, container: Container) -> None:
    has_remote = container.id in engine.remote.leases
    if has_remote:
        await remote_endpoints.leave(engine, container.id)
    attachment.detach(engine, container)
    if has_remote:
        await remote_endpoints.release(engine, container.id)


def discard_bundle(bundle: Path) -> None:
    """The exit has been taken: nothing of the run is needed any more."""
    for name in ("exit", "shim.sock", "config.json"):
        (bundle / name).unlink(missing_ok=True)
    try:
        bundle.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        shutil.rmtree(bundle, ignore_errors=True)
