"""Library of lifecycle: the zygote that it keeps, and its connection to each container's shim.

The zygote is started once and started again when it dies; shims do not care. A shim that was forked
by an earlier lifecycle is found again by its socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from common.errors import Unavailable
from common.paths import Paths
from lifecycle.spares import Spares
from shim.client import ShimClient, ZygoteClient
from shim.protocol import Connection, Message, ProtocolError

log = logging.getLogger(__name__)

END_SECONDS = 5.0
SPARE_SECONDS = 0.04  # without a start
# docker cp looks, and then copies; clients that copy one thing after the other take longer than
# this to come back.
SPARE_JOBS = 2
SPARE_JOB_SECONDS = 0.01
RESTART_SECONDS = 0.2  # between two starts of a zygote that dies at once

OnEvent = Callable[[Message], None]
OnClose = Callable[[], None]
Forked = TypeVar("Forked")


class Shim:
    """One shim, as seen from lifecycle. Calls raise ShimError, or Unavailable if it is gone."""

    def __init__(self, on_close: OnClose) -> None:
        self._gone = asyncio.Event()
        self._on_close = on_close
        self._client: ShimClient | None = None

    def use(self, client: ShimClient) -> None:
        self._client = client

    async def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Message:
        if self._client is None:
            raise Unavailable("the shim is gone")
        return await self._client.call(op, fields, fds)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    async def gone(self) -> None:
        """Wait for the end of a shim that was told to end, but not for ever."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), END_SECONDS)
        self.close()

    def closed(self) -> None:
        self._gone.set()
        self._on_close()


async def reconnect(paths: Paths, container_id: str, on_event: OnEvent, on_close: OnClose) -> Shim:
    """The shim that an earlier lifecycle had forked; raises OSError if there is none."""
    path = paths.shim(container_id) / "shim.sock"
    shim = Shim(on_close)
    shim.use(await ShimClient.connect(path, on_event, shim.closed))
    return shim


async def _assign(
    spare: socket.socket, container_id: str, on_event: OnEvent, on_close: OnClose
) -> Shim:
    """Make the spare this container's shim."""
    shim = Shim(on_close)
    shim.use(ShimClient(spare, on_event, shim.closed))
    await shim.call("assign", id=container_id)
    return shim


class Job:
    """One at its work; it owns its sockets. ``spare``: where it waited for the request, if so."""

    def __init__(self, control: socket.socket, spare: socket.socket | None = None) -> None:
        self.control = control
        self._spare = spare

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exc: object) -> None:
        self.control.close()
        if self._spare is not None:
            self._spare.close()

    def has_begun(self) -> bool:
        """To be asked of one that is dying."""
        if self._spare is not None:
            with suppress(BlockingIOError):
                try:
                    self._spare.recv(1, socket.MSG_DONTWAIT)
                except ConnectionResetError:  # there was something that it had not read
                    return False
        return True


def _given(spare: socket.socket | None, request: Message, fds: Sequence[int]) -> Job | None:
    """The spare job, with its request; None if there is none, or only a dead one.

    It gets a control socket of its own for this: the kernel may still be about to signal that a
    request has come when the job has read it already, and this would be a pull at its leash.
    """
    if spare is None:
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            Connection(spare).send(request, [theirs.fileno(), *fds])
        except (OSError, ProtocolError):  # what is wrong with the request, forking will tell
            ours.close()
            spare.close()
            return None
    return Job(ours, spare)


class Zygote:
    def __init__(self, paths: Paths, busy: Callable[[], bool]) -> None:
        """``busy``: whether somebody waits for something to be done to a container."""
        self._paths = paths
        self._client: ZygoteClient | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._spare_shims = Spares("spare shim", 1, SPARE_SECONDS, self._make_shim, busy)
        self._spare_jobs = Spares("spare job", SPARE_JOBS, SPARE_JOB_SECONDS, self._make_job, busy)

    async def open(self) -> None:
        self._paths.shims.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keeper = asyncio.create_task(self._keep(), name="zygote")

    async def close(self) -> None:
        """The zygote ends when its connection does, and so do the spares."""
        await self._spare_shims.close()
        await self._spare_jobs.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._client is not None:
            self._client.close()
        if self._process is not None:
            await self._process.wait()

    async def fork(self, container_id: str, on_event: OnEvent, on_close: OnClose) -> Shim:
        """A new shim, with its events subscribed to."""
        spare = self._spare_shims.take()
        if spare is not None:
            with suppress(Unavailable):  # somebody killed it
                return await _assign(spare, container_id, on_event, on_close)
        sock = await self._fork(container_id)
        shim = Shim(on_close)
        shim.use(ShimClient(sock, on_event, shim.closed))
        return shim

    @asynccontextmanager
    async def job(
        self, request: Message, fds: Sequence[int], *, fork: bool = False
    ) -> AsyncIterator[Job]:
        """A job at its work (jobs.py); with ``fork`` no spare one."""
        with self._spare_jobs.rest():
            spare = None if fork else self._spare_jobs.take()
            with _given(spare, request, fds) or await self._fork_job(request, fds) as job:
                yield job

    async def _fork_job(self, request: Message, fds: Sequence[int]) -> Job:
        root = self._paths.exec_root
        return Job(await self._forked(lambda client: client.job(request, root, fds)))

    async def _make_shim(self) -> socket.socket:
        return await self._forked(lambda client: client.spare("spare", self._paths.exec_root))

    async def _make_job(self) -> socket.socket:
        return await self._forked(lambda client: client.spare("spare-job", self._paths.exec_root))

    async def _fork(self, container_id: str) -> socket.socket:
        root = self._paths.exec_root
        return (await self._forked(lambda client: client.fork(container_id, root)))[1]

    async def _forked(self, ask: Callable[[ZygoteClient], Awaitable[Forked]]) -> Forked:
        for _ in range(2):  # once more where the zygote has just died
            await self._ready.wait()
            if self._client is None:
                continue
            try:
                return await ask(self._client)
            except Unavailable:
                if not self._client.closed:
                    raise
                self._ready.clear()
        raise Unavailable("the process that starts containers died; try again")

    async def _keep(self) -> None:
        while True:
            closed = asyncio.Event()
            await self._spawn(closed)
            self._ready.set()
            self._spare_shims.want()
            self._spare_jobs.want()
            await closed.wait()
            self._ready.clear()
            self._spare_jobs.drop()
            if self._process is not None:
                await self._process.wait()
            log.warning("the zygote died, starting another")
            await asyncio.sleep(RESTART_SECONDS)

    async def _spawn(self, closed: asyncio.Event) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "shim.zygote",
                str(theirs.fileno()),
                os.fspath(self._paths.exec_root),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._client = ZygoteClient(ours, closed.set)
