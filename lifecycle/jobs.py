"""Library of lifecycle: jobs on a container's files, each in a process of its own.

The process is forked by the zygote (shim/jobs/process.py) and sees the files as the container does.
Bytes go over descriptors that it is given; here are the request, the answer, and who may do what at
the same time: a container that does not run has its overlay mounted by at most one writer's view or
by a start, since two mounts of one upper directory do not know of each other.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from common.errors import Conflict, InternalError, Unavailable, from_code
from images.model import Mount
from lifecycle import mountpoints, remap, volume_use
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from shim.protocol import MAX_MESSAGE, Message, decode

# A start waits so long for what is being written into the container, then it breaks that off.
SETTLE_SECONDS = 10.0
END_SECONDS = 5.0  # for a job that is told to end
ENDING_SECONDS = 5.0  # for a container whose process is gone to be known as stopped
# The kernel's file systems of every container; docker cp shows what the layers have below them.
HIDDEN = ("/proc", "/sys", "/dev")
FILES = ("resolv.conf", "hostname", "hosts")


@dataclass(frozen=True, slots=True)
class View:
    """How the job is to enter; ``pidfd`` is the container's init, where there is one."""

    message: Message
    pidfd: int = -1


async def run(
    engine: Engine,
    container: Container,
    kind: str,
    arguments: Message,
    fds: Sequence[int] = (),
    *,
    writes: bool = False,
) -> Message:
    """Do the job in the container's view of its files. Cancelling it ends the process."""
    while True:
        try:
            return await _attempt(engine, container, kind, arguments, fds, writes=writes)
        except Unavailable:
            if not container.has_process:
                raise
            # Its process has ended, and the news are on the way: then it is a stopped one.
            ended = container.next_exit()
            try:
                await asyncio.wait_for(ended, ENDING_SECONDS)
            except TimeoutError:
                raise Conflict(f"container {container.id} is stopping") from None


async def _attempt(
    engine: Engine,
    container: Container,
    kind: str,
    arguments: Message,
    fds: Sequence[int],
    *,
    writes: bool,
) -> Message:
    async with AsyncExitStack() as held:
        async with container.lock:
            # Under the lock, so that a start either sees the writer or is over.
            view = await _view(engine, container, held)
            given = [*fds, view.pidfd] if view.pidfd >= 0 else fds
            work = asyncio.ensure_future(
                run_in(engine, container.id, kind, view.message, arguments, given)
            )
            held.callback(container.writers.discard, work)
            if writes:
                container.writers.add(work)
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise Conflict(f"container {container.id} was started meanwhile") from None
            raise


async def run_in(
    engine: Engine,
    container_id: str,
    kind: str,
    view: Message,
    arguments: Message,
    fds: Sequence[int],
) -> Message:
    """The job's answer, or the error that it reports."""
    request = {"kind": kind, "id": container_id, "view": view, "arguments": arguments}
    data = await _ask(engine, request, fds)
    if data is None:
        data = await _ask(engine, request, fds, fork=True)
    if not data:
        raise InternalError(f"the {kind} job died")
    answer = decode(data)
    if error := answer.get("error"):
        raise from_code(str(error["code"]), str(error["message"]))
    ok: Message = answer["ok"]
    return ok


async def _ask(
    engine: Engine, request: Message, fds: Sequence[int], *, fork: bool = False
) -> bytes | None:
    """The answer; None of a spare job that was killed before it began."""
    async with engine.zygote.job(request, fds, fork=fork) as job:
        job.control.setblocking(False)
        try:
            data = await asyncio.get_running_loop().sock_recv(job.control, MAX_MESSAGE)
        except asyncio.CancelledError:
            await _end(job.control)
            raise
        return data if data or job.has_begun() else None


async def _end(control: socket.socket) -> None:
    """Pull the leash, and wait until the process has let go of everything."""
    with suppress(OSError):
        control.shutdown(socket.SHUT_WR)
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(control, MAX_MESSAGE), END_SECONDS
        )


async def settle(container: Container) -> None:
    """Before a start: wait for those who write into the container's files, but not for ever."""
    if not container.writers:
        return
    _, late = await asyncio.wait(container.writers, timeout=SETTLE_SECONDS)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)


async def _view(engine: Engine, container: Container, held: AsyncExitStack) -> View:
    """``held`` gets what has to be given back when the job has ended."""
    if container.has_process:
        pidfd = _open_init(container)
        held.callback(os.close, pidfd)
        message = {
            "running": True,
            "hidden": _hidden(container.record),
            "user_namespace": _has_user_namespace(container),
        }
        return View(message, pidfd)
    if container.ending is not None:
        await asyncio.shield(container.ending)
    staged = await held.enter_async_context(volume_use.lent(engine, container))
    return View(stopped(engine, container, staged))


def _hidden(record: pb.Container) -> list[str]:
    """What the user has mounted there is the user's, and stays."""
    theirs = {point.destination for point in record.mounts} | set(record.host_config.tmpfs)
    return [path for path in HIDDEN if path not in theirs]


def _has_user_namespace(container: Container) -> bool:
    """Asked of the kernel: --userns-remap may be another than when the container was started."""
    try:
        theirs = os.stat(f"/proc/{container.record.state.pid}/ns/user")
    except FileNotFoundError as error:
        raise Unavailable(f"container {container.id} has just ended") from error
    return not os.path.samestat(theirs, os.stat("/proc/self/ns/user"))


def _open_init(container: Container) -> int:
    """A pidfd of the container's first process, and of no other that has its number by now."""
    pid = container.record.state.pid
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise Unavailable(f"container {container.id} has just ended") from error
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            cgroups = file.read()
    except OSError:
        cgroups = b""
    if container.id.encode() not in cgroups:
        os.close(pidfd)
        raise Unavailable(f"container {container.id} has just ended")
    return pidfd


def stopped(engine: Engine, container: Container, staged: Mapping[str, str]) -> Message:
    """What has to be mounted for a container without processes."""
    record = container.record
    mounts = list(_binds(engine, record, staged))
    theirs = {item["destination"] for item in mounts}
    for name in FILES:
        source = f"{record.directory}/{name}"
        if f"/etc/{name}" not in theirs and os.path.exists(source):
            mounts.append(_file(f"/etc/{name}", source))
    return {
        "running": False,
        "scratch": os.fspath(engine.paths.shims),
        "root": root_mount(engine, container.id),
        "mounts": sorted(mounts, key=lambda item: str(item["destination"]).count("/")),
        "readonly": record.host_config.readonly_rootfs,
    }


def _binds(
    engine: Engine, record: pb.Container, staged: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """A job has no user namespace here, and the engine's files have the container's ids on disk.

    So only what is the host's is mapped, with what the container makes of it.
    """
    mapping = remap.of(engine.remap, record.host_config)
    images = {point.destination for point in record.mounts if point.type == "image"}
    own = engine.volumes.has_own_files
    for item in mountpoints.oci_mounts(record, staged, mapping, own):
        if item["type"] != "bind":
            continue
        if mapping is not None:
            is_own = item.pop("uidMappings", None) and item.pop("gidMappings")
            if not is_own and item["destination"] not in images:
                item |= mapping.inverse
        yield item


def layers(engine: Engine, container_id: str) -> Message:
    """The container's root alone, as it is while nothing runs in it."""
    return {
        "running": False,
        "scratch": os.fspath(engine.paths.shims),
        "root": root_mount(engine, container_id),
        "mounts": [],
        "readonly": False,
    }


def root_mount(engine: Engine, container_id: str) -> Message:
    (mount,) = engine.images.container_mounts(container_id)
    return _as_json(mount)


def _as_json(mount: Mount) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def _file(destination: str, source: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate"],
    }
