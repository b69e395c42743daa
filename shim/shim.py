"""Process ``longshore-shim <short id>``: the parent of one container, forked by the zygote.

Owns the container's stdio, log, exit status and published sockets, its execs, and ``shims/<id>/``
below the exec root: shim.sock, which it serves, and exit, its last word. It waits for nobody:
lifecycle, the API and the zygote may die and come back. What happens at the container's end is in
``end`` and what follows it, in that order. operations.py has what control connections
can ask for.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import traceback
from pathlib import Path

from common import endpoint
from common.errors import Conflict, InternalError
from common.paths import Paths
from shim import external, native, portproxy
from shim.container import Container
from shim.control import ControlServer
from shim.execs import Execs, drain_then
from shim.logs import Log, open_log
from shim.loop import Loop
from shim.newborn import Newborn
from shim.operations import Operations
from shim.portproxy import PortProxy
from shim.protocol import Connection, Message
from shim.reaper import ExitRecord, Reaper
from shim.request import NetworkChange, StartRequest
from shim.resolver import Resolver
from shim.stdio import ProcessStreams


class Shim:
    """Made before it is known for which container: ``assign`` says that."""

    def __init__(self, exec_root: Path) -> None:
        self.exec_root = exec_root
        self.loop = Loop()
        self.reaper = Reaper(self.loop)
        self.streams = ProcessStreams(
            self.loop,
            on_detach=lambda: self.emit({"event": "detach", "exec_id": None}),
            on_client_gone=self._end_if_idle,
        )
        self.execs = Execs(self.loop, self.reaper, self.emit, self._end_if_idle)
        self.ports = PortProxy(self.loop)
        self.resolver = Resolver(self.loop)
        self.newborn = Newborn(exec_root)
        self.container: Container | None = None
        self.status = "created"
        self.pid = 0
        self.started_at = 0
        self._log: Log | None = None
        self._oom_fd = -1
        self._oom_kills = 0
        self._exited_at = 0
        self._cleaned = False
        self.control = ControlServer(self.loop, Operations(self).handle, self._end_if_idle)

    def assign(self, container_id: str, control: Connection, *, subscribed: bool = False) -> None:
        """``control`` is lifecycle's first connection."""
        self.container_id = container_id
        self.directory = Paths(exec_root=self.exec_root).shim(container_id)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.control.listen(self.directory / "shim.sock")
        self.control.add(control, subscribed=subscribed)

    def run(self) -> None:
        """Serve until the container is gone and reported."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a shim ends with its container
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.loop.when_idle(self._clone_newborn)
        self.loop.run()
        self.close()

    def close(self) -> None:
        self.control.close()
        self.loop.close()

    def emit(self, event: Message) -> None:
        if event["event"] == "exec_exit" and not self.control.has_subscriber:
            self.execs.remember(self.execs.get(event["exec_id"]))
        self.control.broadcast(event)

    def _clone_newborn(self) -> bool:
        """After the first answers: lifecycle prepares the start meanwhile."""
        if self.status == "created" and self.container is None:
            self.newborn.clone()
        return False

    def running(self) -> Container:
        """The container, for operations that need one with a process."""
        if self.container is None or self.status not in ("running", "paused"):
            raise Conflict(f"container {self.container_id} is not running")
        return self.container

    def start(self, request: StartRequest, fds: list[int]) -> Message:
        """Create and start the container; after a failure nothing of it is left."""
        if self.status != "created" or self.container is not None:
            portproxy.hold_all(self.ports, [], fds)
            raise Conflict(f"container {self.container_id} is already started")
        try:
            portproxy.hold_all(self.ports, list(request.ports), fds)
            self._start(request)
        except BaseException:
            self._undo_start()
            raise
        return {"pid": self.pid, "started_at": self.started_at}

    def _start(self, request: StartRequest) -> None:
        container: Container
        if request.runtime:
            self.newborn.close()
            container = external.ExternalContainer(self.container_id, request)
        else:
            container = native.NativeContainer(
                self.container_id, self.exec_root, request.message, self.newborn
            )
        self.container = container
        self._log = open_log(request.log, self.loop)
        stdio = None
        if not container.terminal():
            stdio = self.streams.open_pipes(stdin=request.stdin_open)
        created = container.create(stdio)
        self.streams.close_child_ends()
        self.pid = created.pid
        if created.console is not None:
            self.streams.adopt_console(created.console, stdin=request.stdin_open)
        if request.resolver is not None:
            self.resolver.open(created.pid, request.resolver)
        self._watch_oom(container)
        self.reaper.watch(created.pid, created.pidfd, self.end)
        container.start()
        self.started_at = time.time_ns()
        self.status = "running"
        self.streams.begin(self._log, stdin_once=request.stdin_once)

    def _undo_start(self) -> None:
        """The error is answered by the caller; then there is nothing left to live for."""
        self.status = "exited"
        self.reaper.forget(self.pid)
        self.ports.close()
        self.resolver.close()
        self.streams.close()
        if self.container is not None:
            try:
                self.container.delete()
            except Exception:
                # The first failure is the one to report.
                traceback.print_exc()
        if self._log is not None:
            self._log.close()
            self._log = None
        self._cleaned = True
        self.loop.call_later(0, self.streams.finish)
        self.loop.call_later(0, self._end_if_idle)

    def change_network(self, change: NetworkChange, fds: list[int]) -> None:
        """Connect or disconnect the running container; lifecycle takes back what fails."""
        try:
            self.running()
            if change.endpoint is not None:
                endpoint.plug(self.pid, change.endpoint)
            if change.unplug is not None:
                endpoint.unplug(self.pid, change.unplug)
            for gateway in change.gateways:
                endpoint.take_gateway(self.pid, gateway)
            self.resolver.open(self.pid, change.resolver)
        except OSError as e:
            portproxy.hold_all(self.ports, [], fds)
            raise InternalError(f"unable to set up the network: {e.strerror}") from e
        except BaseException:
            portproxy.hold_all(self.ports, [], fds)
            raise
        if change.port_targets is not None:
            self.ports.retarget(change.port_targets)
        portproxy.hold_all(self.ports, list(change.ports), fds)

    def abandon(self) -> None:
        if self.status != "created":
            raise Conflict(f"container {self.container_id} was started")
        self.status = "exited"
        self.newborn.close()
        self._cleaned = True
        self.loop.call_later(0, self.streams.finish)
        self.loop.call_later(0, self._end_if_idle)

    def _watch_oom(self, container: Container) -> None:
        watch = container.watch_oom()
        if watch is None:
            return

        def check(_events: int) -> None:
            watch.drain()
            self._count_oom_kills()

        self._oom_fd = watch.fd
        self.loop.add(watch.fd, select.EPOLLIN | select.EPOLLPRI, check)

    def _count_oom_kills(self) -> None:
        assert self.container is not None
        try:
            count = self.container.oom_kill_count()
        except OSError:
            return  # the cgroup is gone
        if count > self._oom_kills:
            self._oom_kills = count
            self.emit({"event": "oom"})

    # The container's end, in order.

    def end(self, code: int) -> None:
        """The container's init has exited."""
        self._exited_at = time.time_ns()
        if not self.streams.drain():
            # Only a process without a pid namespace of the container's can have outlived init.
            assert self.container is not None
            with contextlib.suppress(OSError):
                self.container.kill_all()
        drain_then(self.loop, self.streams, lambda: self._report_exit(code))

    def _report_exit(self, code: int) -> None:
        self._count_oom_kills()
        # The log is whole, and the ports are free, before anybody can know that the container is
        # gone.
        self.streams.close()
        self.ports.close()
        record = ExitRecord(code, self._oom_kills > 0, self._exited_at)
        try:
            record.write(str(self.directory))
        except OSError:
            traceback.print_exc()  # the subscribers still hear of it
        self.status = "exited"
        self.emit(
            {
                "event": "exit",
                "exit_code": record.exit_code,
                "oom_killed": record.oom_killed,
                "exited_at": record.exited_at,
            }
        )
        self.streams.finish()
        self._clean_up()

    def _clean_up(self) -> None:
        assert self.container is not None
        self.resolver.close()
        if self._oom_fd >= 0:
            self.loop.remove(self._oom_fd)
            os.close(self._oom_fd)
        event: Message = {"event": "cleaned"}
        try:
            self.container.delete()
        except Exception as e:
            event["error"] = str(e)
        self.execs.abandon()
        if self._log is not None:
            self._log.close()
        self._cleaned = True
        self.emit(event)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """A peer, a client or an exec is gone: was it the last thing that this shim is for?"""
        if self.streams.clients or self.execs.busy:
            return
        if self._cleaned or (self.status == "created" and not self.control.peers):
            self.loop.stop()
