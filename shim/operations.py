"""Library: what a control connection can ask of the shim; docs/architecture.md has the table."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import InvalidArgument
from shim import portproxy, request
from shim.control import Peer
from shim.execs import take_socket
from shim.protocol import Message, close_all

if TYPE_CHECKING:
    from shim.shim import Shim

Operation = Callable[[Message, list[int], Peer], Message]


class Operations:
    def __init__(self, shim: Shim) -> None:
        self._shim = shim
        self._operations: dict[str, Operation] = {
            "abandon": self._abandon,
            "attach": self._attach,
            "exec": self._exec,
            "network": self._network,
            "pause": self._pause,
            "ports": self._ports,
            "resize": self._resize,
            "resume": self._resume,
            "signal": self._signal,
            "start": self._start,
            "stats": self._stats,
            "subscribe": self._subscribe,
            "update": self._update,
        }

    def handle(self, op: str, message: Message, fds: list[int], peer: Peer) -> Message:
        """Do one operation; descriptors that it did not take are closed, also on a failure."""
        try:
            operation = self._operations.get(op)
            if operation is None:
                raise InvalidArgument(f"unknown operation {op!r}")
            return operation(message, fds, peer)
        finally:
            close_all(fds)

    def _subscribe(self, _message: Message, _fds: list[int], peer: Peer) -> Message:
        peer.subscribed = True
        shim = self._shim
        return {
            "status": shim.status,
            "pid": shim.pid,
            "started_at": shim.started_at,
            "execs": shim.execs.report(),
        }

    def _start(self, message: Message, fds: list[int], _peer: Peer) -> Message:
        start = request.start(message)
        if len(fds) != len(start.ports):
            raise InvalidArgument(f"start: {len(start.ports)} ports, {len(fds)} descriptors")
        taken = list(fds)
        fds.clear()
        return self._shim.start(start, taken)

    def _ports(self, message: Message, fds: list[int], _peer: Peer) -> Message:
        ports = request.ports(message)
        if len(fds) != len(ports):
            raise InvalidArgument(f"ports: {len(ports)} ports, {len(fds)} descriptors")
        taken = list(fds)
        fds.clear()
        portproxy.hold_all(self._shim.ports, list(ports), taken)
        return {}

    def _network(self, message: Message, fds: list[int], _peer: Peer) -> Message:
        change = request.change(message)
        if len(fds) != len(change.ports):
            raise InvalidArgument(f"network: {len(change.ports)} ports, {len(fds)} descriptors")
        taken = list(fds)
        fds.clear()
        self._shim.change_network(change, taken)
        return {}

    def _attach(self, message: Message, fds: list[int], _peer: Peer) -> Message:
        options = request.attach_options(message)
        client = take_socket(fds)
        if client is None:
            raise InvalidArgument("attach: the client's socket is missing")
        self._shim.streams.attach(client, options)
        return {}

    def _exec(self, message: Message, fds: list[int], _peer: Peer) -> Message:
        exec_id = request.text(message, "exec_id")
        process = request.process(message)
        options = request.attach_options(message)
        timeout = request.seconds(message, "timeout")
        container = self._shim.running()
        client = take_socket(fds)
        try:
            started = self._shim.execs.start(container, exec_id, process, options, client, timeout)
        except BaseException:
            if client is not None:
                client.close()
            raise
        return {"pid": started.pid}

    def _resize(self, message: Message, _fds: list[int], _peer: Peer) -> Message:
        exec_id = request.optional_text(message, "exec_id")
        height, width = request.number(message, "height"), request.number(message, "width")
        if not (0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF):
            raise InvalidArgument(f"resize: {height}x{width} is no terminal size")
        if exec_id is None:
            self._shim.running()
            streams = self._shim.streams
        else:
            streams = self._shim.execs.get(exec_id).streams
        # As with Docker, a process without a terminal does not mind.
        if streams.console >= 0:
            streams.resize(height, width)
        return {}

    def _signal(self, message: Message, _fds: list[int], _peer: Peer) -> Message:
        container = self._shim.running()
        number = request.number(message, "signal")
        exec_id = request.optional_text(message, "exec_id")
        if exec_id is not None:
            self._shim.execs.get(exec_id).signal(number)
            return {}
        container.signal(number, everyone=request.flag(message, "all"))
        if number == signal.SIGKILL and self._shim.status == "paused":
            # A frozen process of cgroup v1 cannot even die.
            container.resume()
            self._shim.status = "running"
        return {}

    def _pause(self, _message: Message, _fds: list[int], _peer: Peer) -> Message:
        self._shim.running().pause()
        self._shim.status = "paused"
        return {}

    def _resume(self, _message: Message, _fds: list[int], _peer: Peer) -> Message:
        self._shim.running().resume()
        self._shim.status = "running"
        return {}

    def _update(self, message: Message, _fds: list[int], _peer: Peer) -> Message:
        self._shim.running().update(request.resources(message))
        return {}

    def _stats(self, _message: Message, _fds: list[int], _peer: Peer) -> Message:
        return {"read": time.time_ns(), **self._shim.running().stats()}

    def _abandon(self, _message: Message, _fds: list[int], _peer: Peer) -> Message:
        self._shim.abandon()
        return {}
