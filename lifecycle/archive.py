"""Library of lifecycle: ``docker cp`` both ways, export, and what a container has changed.

Each is a job (jobs.py): nothing of a container's files is looked at in this process, and no byte
of them passes through it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from common.errors import Conflict
from lifecycle import jobs, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.types_pb2 import Stream
from lifecycle.container import Container
from lifecycle.engine import Engine
from shim.protocol import Message

# The first bytes of what Docker decompresses: gzip, bzip2, xz, zstd and its skippable frames.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_LONGEST = 6
_CHUNK = 1 << 16


async def stat_path(engine: Engine, request: pb.PathRequest) -> pb.PathStat:
    container = _find(engine, request.ref)
    arguments = {"ref": request.ref, "path": request.path}
    found = await jobs.run(engine, container, "stat", arguments)
    return pb.PathStat(
        name=found["name"],
        size=found["size"],
        mode=found["mode"],
        mtime=found["mtime"],
        link_target=found["link_target"],
    )


async def get(engine: Engine, request: pb.ArchiveRequest) -> None:
    with _Claimed(engine, request.stream.token) as stream:
        container = _find(engine, request.ref)
        engine.publish(container, "archive-path")
        arguments = {
            "ref": request.ref,
            "path": request.path,
            "chunked": request.stream.chunked,
        }
        await jobs.run(engine, container, "get", arguments, [stream])


async def put(engine: Engine, request: pb.ArchiveRequest) -> None:
    with _Claimed(engine, request.stream.token) as stream:
        container = _find(engine, request.ref)
        arguments = {
            "ref": request.ref,
            "path": request.path,
            "no_overwrite_dir_non_dir": request.no_overwrite_dir_non_dir,
            "copy_uid_gid": request.copy_uid_gid,
            "user": container.record.config.user,
            "chunked": request.stream.chunked,
        }
        async with _plain(engine, stream, request.stream) as tar:
            await jobs.run(engine, container, "put", arguments, tar, writes=True)
        engine.publish(container, "extract-to-dir")


async def export(engine: Engine, request: pb.ExportRequest) -> None:
    with _Claimed(engine, request.output.token) as stream:
        container = _find(engine, request.ref)
        arguments = {"chunked": request.output.chunked}
        await jobs.run(engine, container, "export", arguments, [stream])
        engine.publish(container, "export")


async def changes(engine: Engine, container: Container) -> pb.ChangeList:
    details = engine.images.details
    copied = await details.copied_changes(container.id)
    if copied is not None:
        reply = pb.ChangeList()
        for change in copied:
            shown = os.fsencode(change.path).decode("utf-8", "backslashreplace")
            reply.changes.add(path=f"/{shown}", kind=change.kind)
        return reply
    lower = [os.fspath(path) for path in details.container_lower(container.id)]
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            work = asyncio.ensure_future(
                _on_upper(engine, container, "changes", {"lower": lower}, [os.dup(theirs.fileno())])
            )
        try:
            lines = await _read_all(ours)
            await work
        finally:
            work.cancel()
            await asyncio.wait([work])
    reply = pb.ChangeList()
    for line in lines.splitlines():
        path, kind = orjson.loads(line)
        reply.changes.add(path=path, kind=kind)
    return reply


async def layer_size(engine: Engine, container: Container) -> int:
    """Bytes of the container's own layer."""
    copied = await engine.images.details.copied_changes(container.id)
    if copied is not None:
        return sum(change.size for change in copied)
    answer = await _on_upper(engine, container, "size", {}, [])
    return int(answer["bytes"])


async def _on_upper(
    engine: Engine,
    container: Container,
    kind: str,
    arguments: Message,
    fds: list[int],
) -> Message:
    """``fds`` are closed."""
    upper = engine.images.details.container_upper(container.id)
    given = [os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), *fds]
    try:
        return await jobs.run_in(engine, container.id, kind, {}, arguments, given)
    finally:
        for fd in given:
            os.close(fd)


async def _read_all(source: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    pieces = []
    while data := await loop.sock_recv(source, _CHUNK):
        pieces.append(data)
    return b"".join(pieces)


def _find(engine: Engine, ref: str) -> Container:
    container = engine.containers.find(ref)
    if container.status in (status.REMOVING, status.DEAD):
        raise Conflict(f"container {container.id} is marked for removal")
    return container


class _Claimed:
    """The client's stream; closed at the end, whatever happened."""

    def __init__(self, engine: Engine, token: str) -> None:
        self._fd = engine.streams.claim(token)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


@asynccontextmanager
async def _plain(engine: Engine, stream: int, given: Stream) -> AsyncIterator[list[int]]:
    """``stream`` as a plain tar; the images worker decompresses it where it is none.

    A client's own connection has been looked at, and comes with what was read of it on the way.

    A job must not do that, where it is: what decompresses is no business of a container's files
    (CVE-2026-41567).
    """
    if given.chunked:
        early = os.memfd_create("early", os.MFD_CLOEXEC)
        try:
            os.write(early, given.early)
            os.lseek(early, 0, os.SEEK_SET)
            yield [early, stream]
        finally:
            os.close(early)
        return
    if not await _is_compressed(stream):
        yield [stream]
        return
    ours, theirs = socket.socketpair()
    with ours:
        worker = asyncio.ensure_future(engine.images.decompress(stream, theirs.detach()))
        try:
            yield [ours.fileno()]
        except Exception:
            # The tar was cut off because the worker failed, perhaps: that is the reason then.
            if worker.done():
                await worker
            raise
        finally:
            ours.close()  # the worker may be waiting for it to be read
            worker.cancel()
            await asyncio.wait([worker])


async def _is_compressed(stream: int) -> bool:
    start = await _peek(stream)
    if start is None or 0 < len(start) < _LONGEST:
        return True  # the worker looks at it again, and passes on what is plain
    return start.startswith(_COMPRESSED) or (
        len(start) > 3 and 0x50 <= start[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18"
    )


async def _peek(stream: int) -> bytes | None:
    """The first bytes, left where they are; None if ``stream`` is no socket."""
    with socket.socket(fileno=os.dup(stream)) as sock:
        while True:
            try:
                return sock.recv(_LONGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                await _readable(sock.fileno())
            except OSError:
                return None


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)
