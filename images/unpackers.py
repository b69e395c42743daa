"""Worker: the client of longshore-unpack (``images/unpack.py``).

Starts that process at once and again whenever it has died; runs at most one job per CPU. The
directory that a job fills is the caller's.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import EngineError, InternalError, InvalidArgument
from images.unpack import MESSAGE_LIMIT

SOURCE_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Unpacked:
    size: int
    diff_id: str
    opaque: tuple[bytes, ...]


@dataclass(slots=True)
class _Job:
    done: asyncio.Future[dict[str, Any]]
    progress: Callable[[int], None]
    opaque: list[bytes] = field(default_factory=list)
    answer: dict[str, Any] | None = None


class Unpackers:
    def __init__(self, occupied: int) -> None:
        self._occupied = occupied  # for the process to have, too: see ContentStore.occupy
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._jobs: dict[int, _Job] = {}
        self._last = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def unpack(
        self,
        archive: int,
        directory: int,
        *,
        progress: Callable[[int], None],
        whiteouts: bool = True,
    ) -> Unpacked:
        """Apply the tar that ``archive`` reads, compressed or not, to ``directory``."""
        async with self._slots:
            self._last += 1
            number = self._last
            job = _Job(asyncio.get_running_loop().create_future(), progress)
            control = self.start()
            self._jobs[number] = job
            request = {"job": number, "whiteouts": whiteouts, "ownership": True}
            # Requests are rare and small, so this never fills the socket's buffer.
            socket.send_fds(control, [json.dumps(request).encode()], [archive, directory])
            try:
                answer = await asyncio.shield(job.done)
            except asyncio.CancelledError:
                if not job.done.done():
                    control.send(json.dumps({"cancel": number}).encode())
                    await asyncio.wait((job.done,))  # the directory is free only then
                raise
            finally:
                del self._jobs[number]
                if job.done.done() and not job.done.cancelled():
                    job.done.exception()
            return _outcome(job, answer)

    def close(self) -> None:
        if self._control is None or self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._process.wait()
        self._control = self._process = None

    def start(self) -> socket.socket:
        """Have the process running, and how to reach it."""
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "images.unpack", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), self._occupied),
                stdin=subprocess.DEVNULL,
                cwd="/",
                env={"PYTHONPATH": str(SOURCE_ROOT), "LC_ALL": "C.UTF-8"},
            )
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._readable)
        self._control = ours
        return ours

    def _readable(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(MESSAGE_LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            for job in self._jobs.values():
                if not job.done.done():
                    job.done.set_exception(InternalError("the unpacking process died"))
            return
        message = json.loads(data)
        job_or_none = self._jobs.get(message["job"])
        if job_or_none is None or job_or_none.done.done():
            return
        job = job_or_none
        if "consumed" in message:
            job.progress(message["consumed"])
        elif "opaque" in message:
            job.opaque += (os.fsencode(path) for path in message["opaque"])
        elif "exit" in message:
            job.done.set_result(job.answer or message)
        else:
            job.answer = message


def _outcome(job: _Job, answer: dict[str, Any]) -> Unpacked:
    if "result" in answer:
        result = answer["result"]
        return Unpacked(result["size"], result["diff_id"], tuple(job.opaque))
    if "error" in answer:
        raise _error(answer["error"], answer["errno"])
    status = answer["exit"]
    how = "ended early"
    if os.WIFSIGNALED(status):
        how = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    raise InternalError(f"failed to register layer: the unpacking process {how}")


def _error(text: str, number: int) -> EngineError:
    if number == 0:
        return InvalidArgument(f"failed to register layer: {text}")
    if number == errno.ENOSPC:
        return InternalError(f"failed to register layer: write: {text.lower()}")
    return InternalError(f"failed to register layer: {text}")
