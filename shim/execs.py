"""Library: the processes that ``exec`` started in the container.

Each has streams of its own with at most one client. An exec's exit is announced before its client's
socket is closed, because clients inspect the exec as soon as the output ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from common.errors import Conflict, NotFound
from runtime.spec import Process
from shim.attach import AttachOptions
from shim.container import Container
from shim.loop import Loop, Timer
from shim.reaper import Reaper
from shim.stdio import ProcessStreams

# How long output may still come from what an exec left behind on its pipes.
DRAIN_SECONDS = 0.1
DRAIN_STEP_SECONDS = 0.005
# Exit codes are kept for a subscriber that is away; health checks run for ever, so not all of them.
MAX_FINISHED = 256

Emit = Callable[[dict[str, Any]], None]


def drain_then(
    loop: Loop, streams: ProcessStreams, done: Callable[[], None], *, left: float = DRAIN_SECONDS
) -> None:
    """Call ``done`` when the output is at its end, or ``left`` seconds have passed.

    The process is gone: all that it wrote is there to be read. Only another process that has its
    pipe can hold up the end.
    """
    if streams.drain() or left <= 0:
        done()
        return
    loop.call_later(
        DRAIN_STEP_SECONDS,
        lambda: drain_then(loop, streams, done, left=left - DRAIN_STEP_SECONDS),
    )


class Exec:
    def __init__(self, exec_id: str, pid: int, streams: ProcessStreams) -> None:
        self.exec_id = exec_id
        self.pid = pid
        self.streams = streams
        self.exit_code: int | None = None
        self.deadline: Timer | None = None

    def signal(self, number: int) -> None:
        """To its whole process group, which the runtime made it the leader of."""
        # Its pid is not anybody else's before its exit has been collected.
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class Execs:
    """All execs of the container; ``emit`` sends an event, ``on_idle`` follows each one's end."""

    def __init__(self, loop: Loop, reaper: Reaper, emit: Emit, on_idle: Callable[[], None]) -> None:
        self._loop = loop
        self._reaper = reaper
        self._emit = emit
        self._on_idle = on_idle
        self._execs: dict[str, Exec] = {}
        self._finished: dict[str, Exec] = {}

    def start(
        self,
        container: Container,
        exec_id: str,
        process: Process,
        options: AttachOptions,
        client: socket.socket | None,
        timeout: float = 0.0,
    ) -> Exec:
        """Run ``process``; on a failure ``client`` is untouched and still the caller's.

        With a ``timeout``, its process group is killed after that many seconds.
        """
        if exec_id in self._execs:
            raise Conflict(f"exec command {exec_id} is already running")
        streams = ProcessStreams(
            self._loop,
            on_detach=lambda: self._emit({"event": "detach", "exec_id": exec_id}),
            on_client_gone=self._on_idle,
        )
        try:
            stdio = None
            if not process.terminal:
                stdio = streams.open_pipes(
                    stdin=options.stdin and client is not None,
                    stdout=options.stdout and client is not None,
                    stderr=options.stderr and client is not None,
                )
            started = container.exec(process, stdio)
        except BaseException:
            streams.close()
            raise
        streams.close_child_ends()
        if started.console is not None:
            streams.adopt_console(started.console, stdin=options.stdin)
        running = Exec(exec_id, started.pid, streams)
        self._execs[exec_id] = running
        streams.begin(None, stdin_once=True)
        if client is not None:
            streams.attach(client, options)
        self._reaper.watch(started.pid, started.pidfd, lambda code: self._exited(running, code))
        if timeout:
            running.deadline = self._loop.call_later(
                timeout, lambda: running.signal(signal.SIGKILL)
            )
        return running

    def get(self, exec_id: str) -> Exec:
        try:
            return self._execs[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    def report(self) -> list[dict[str, Any]]:
        """For a new subscriber; what ended in its absence is told once."""
        known = [*self._finished.values(), *self._execs.values()]
        self._finished.clear()
        return [
            {"exec_id": each.exec_id, "pid": each.pid, "exit_code": each.exit_code}
            for each in known
        ]

    def remember(self, finished: Exec) -> None:
        """Nobody was there to hear of its end."""
        while len(self._finished) >= MAX_FINISHED:
            del self._finished[next(iter(self._finished))]
        self._finished[finished.exec_id] = finished

    @property
    def busy(self) -> bool:
        return bool(self._execs)

    def abandon(self) -> None:
        """The container is gone: end what is left of its execs."""
        for running in list(self._execs.values()):
            running.streams.finish()

    def _exited(self, running: Exec, code: int) -> None:
        self._loop.cancel(running.deadline)
        running.exit_code = code
        drain_then(self._loop, running.streams, lambda: self._end(running))

    def _end(self, running: Exec) -> None:
        running.streams.close()
        self._emit(
            {"event": "exec_exit", "exec_id": running.exec_id, "exit_code": running.exit_code}
        )
        running.streams.finish()
        self._execs.pop(running.exec_id, None)
        self._on_idle()


def take_socket(fds: list[int]) -> socket.socket | None:
    """The client's socket among a message's descriptors; the rest, if any, is closed."""
    client = None
    while fds:
        fd = fds.pop()
        if fds:
            os.close(fd)
            continue
        try:
            client = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise
    return client
