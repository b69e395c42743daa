"""Library: lifecycle's side of the worker process (``images/worker.py`` has the messages).

Starts the worker when an operation wants it, ends it after ``IDLE_SECONDS`` without one. When it
dies, the operations under way fail with an error that says so, and the next one starts it again.
Cancelling the task that awaits ``run`` cancels the operation in the worker, and waits until it has
ended there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.errors import Unavailable, from_code
from images.channel import Channel, Message
from images.model import Progress

IDLE_SECONDS = 60.0
SOURCE_ROOT = Path(__file__).resolve().parent.parent

OnProgress = Callable[[Progress], None]


class Leases(Protocol):
    """Who keeps layers and blobs from being collected while an operation relies on them."""

    def lease(self, operation: int, layers: Sequence[str], blobs: Sequence[str]) -> None: ...


@dataclass(slots=True)
class _Pending:
    done: asyncio.Future[dict[str, Any]]
    progress: OnProgress


class WorkerClient:
    def __init__(self, data_root: Path, leases: Leases, *, idle: float = IDLE_SECONDS) -> None:
        self._data_root = data_root
        self._leases = leases
        self._idle = idle
        self._pending: dict[int, _Pending] = {}
        self._last = 0
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start_operation(self) -> int:
        """A number for ``run``; leases can be taken for it beforehand."""
        self._last += 1
        return self._last

    async def run(
        self,
        operation: int,
        name: str,
        arguments: dict[str, Any],
        *,
        fds: Sequence[int] = (),
        progress: OnProgress = lambda _line: None,
    ) -> dict[str, Any]:
        """The operation's result; its leases outlast it, the caller ends them after its commit."""
        channel = self._start()
        pending = _Pending(asyncio.get_running_loop().create_future(), progress)
        self._pending[operation] = pending
        try:
            channel.send({"id": operation, "op": name, "arguments": arguments}, fds)
            return await asyncio.shield(pending.done)
        except asyncio.CancelledError:
            pending.progress = lambda _line: None
            channel.send({"id": operation, "cancel": True})
            await asyncio.wait((pending.done,))
            raise
        finally:
            if pending.done.done() and not pending.done.cancelled():
                pending.done.exception()  # retrieved, whoever was interested
            del self._pending[operation]
            self._arm_idle_timer()

    async def close(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        process = self._process
        if self._channel is not None:
            self._channel.close()
        if process is not None:
            await asyncio.to_thread(process.wait)

    def _start(self) -> Channel:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._channel is not None:
            return self._channel
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "images.worker", str(theirs.fileno()), str(self._data_root)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=environment,
            )
        self._channel = Channel(ours, self._message, self._ended)
        return self._channel

    def _message(self, message: Message, _fds: list[int]) -> None:
        operation = message["id"]
        if "lease" in message:
            self._leases.lease(operation, message["layers"], message["blobs"])
            assert self._channel is not None
            self._channel.send({"id": operation, "granted": message["lease"]})
            return
        pending = self._pending.get(operation)
        if pending is None or pending.done.done():
            return
        if "progress" in message:
            pending.progress(Progress(**message["progress"]))
        elif "result" in message:
            pending.done.set_result(message["result"])
        else:
            error = message["error"]
            pending.done.set_exception(from_code(error["code"], error["message"]))

    def _ended(self) -> None:
        """The channel is closed: by us, or because the worker died."""
        process, self._process, self._channel = self._process, None, None
        assert process is not None
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(
                    Unavailable(
                        "the image worker ended unexpectedly; the operation was not completed"
                    )
                )
        _reap(process)

    def _arm_idle_timer(self) -> None:
        if self._pending or self._channel is None:
            return
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        loop = asyncio.get_running_loop()
        self._idle_timer = loop.call_later(self._idle, self._channel.close)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Collect the exit status once there is one, without blocking the loop."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)

    def exited() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.wait()

    loop.add_reader(pidfd, exited)
