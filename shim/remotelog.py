"""Library: output to a log server: syslog, gelf, fluentd, the journal.

Runs in the shim's loop. A server that is slow or away must not stop the container nor fill the
memory: what it does not take waits in a queue of bounded size, and what does not fit is dropped
and counted. A broken connection is made again, once a second. ``docker logs`` reads the local copy
that the shim writes beside it (shim/logfile.py).
"""

from __future__ import annotations

import collections
import errno
import select
import socket
import time

from runtime.errors import RuntimeFailure, reason
from shim.logformat import PARTIAL_SIZE
from shim.loop import Loop, Timer
from shim.remoteformats import Line, RemoteConfig, encode

CONNECT_SECONDS = 5.0
RETRY_SECONDS = 1.0
FAREWELL_SECONDS = 2.0
_KINDS = {
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "unixgram": (socket.AF_UNIX, socket.SOCK_DGRAM),
}


class RemoteLog:
    def __init__(self, config: RemoteConfig, loop: Loop) -> None:
        self._config = config
        self._loop = loop
        self._carry: dict[str, bytes] = {}
        self._queue: collections.deque[bytes] = collections.deque()
        self._waiting = 0  # bytes in the queue
        self._socket: socket.socket | None = None
        self._registered = False
        self._retry: Timer | None = None
        self.dropped = 0
        try:
            self._socket = self._connect(CONNECT_SECONDS)
        except OSError as error:
            if not config.asynchronous:
                raise RuntimeFailure("log", self._refusal(error)) from error
            self._retry_later()

    def write(self, stream: str, data: bytes) -> None:
        data = self._carry.pop(stream, b"") + data
        *lines, rest = data.split(b"\n")
        now = time.time_ns()
        for text in lines:
            self._put_line(stream, text, now)
        while len(rest) >= PARTIAL_SIZE:
            self._put(Line(stream, rest[:PARTIAL_SIZE], now, partial=True))
            rest = rest[PARTIAL_SIZE:]
        if rest:
            self._carry[stream] = rest
        self._flush()

    def end(self, stream: str) -> None:
        rest = self._carry.pop(stream, b"")
        if rest:
            self._put(Line(stream, rest, time.time_ns(), partial=False))
            self._flush()

    def close(self) -> None:
        """Give the server a moment to take what is left."""
        for stream in list(self._carry):
            self.end(stream)
        self._loop.cancel(self._retry)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._queue and self._socket is not None and time.monotonic() < deadline:
            select.select([], [self._socket], [], 0.1)
            self._flush()
        self._disconnect()

    def _put_line(self, stream: str, text: bytes, now: int) -> None:
        while len(text) > PARTIAL_SIZE:
            self._put(Line(stream, text[:PARTIAL_SIZE], now, partial=True))
            text = text[PARTIAL_SIZE:]
        self._put(Line(stream, text, now, partial=False))

    def _put(self, line: Line) -> None:
        messages = encode(self._config, line)
        size = sum(map(len, messages))
        if self._waiting + size > self._config.limit:
            self.dropped += 1
            return
        self._queue.extend(messages)
        self._waiting += size

    def _flush(self) -> None:
        while self._queue and self._socket is not None:
            message = self._queue[0]
            try:
                sent = self._socket.send(message)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMSGSIZE, errno.ECONNREFUSED, errno.ENOBUFS) and (
                    self._config.network in ("udp", "unixgram")
                ):
                    # This datagram is lost; the next one may find the server.
                    sent = len(message)
                else:
                    self._disconnect()
                    self._retry_later()
                    return
            self._waiting -= sent
            if sent == len(message):
                self._queue.popleft()
            else:
                self._queue[0] = message[sent:]
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        if self._socket is None:
            return
        if self._queue and not self._registered:
            self._loop.add(self._socket.fileno(), select.EPOLLOUT, lambda _: self._flush())
            self._registered = True
        elif not self._queue and self._registered:
            self._loop.remove(self._socket.fileno())
            self._registered = False

    def _connect(self, timeout: float) -> socket.socket:
        config = self._config
        family, kind = _KINDS[config.network]
        address: tuple[str, int] | str = config.address
        if family == socket.AF_INET:
            family = socket.AF_INET6 if ":" in config.address else family
            address = (config.address, config.port)
        connection = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._socket is not None:
            if self._registered:
                self._loop.remove(self._socket.fileno())
                self._registered = False
            self._socket.close()
            self._socket = None

    def _retry_later(self) -> None:
        self._loop.cancel(self._retry)
        self._retry = self._loop.call_later(RETRY_SECONDS, self._reconnect)

    def _reconnect(self) -> None:
        try:
            # The loop waits meanwhile: not for long.
            self._socket = self._connect(0.2)
        except OSError:
            self._retry_later()
            return
        self._flush()

    def _refusal(self, error: OSError) -> str:
        """Docker's texts, which Go's dialer begins."""
        config = self._config
        if config.driver == "journald":
            return "journald is not enabled on this host"
        if config.driver == "syslog" and not config.port and not config.format:
            return "Unix syslog delivery error"
        where = f"{config.address}:{config.port}" if config.port else config.address
        dialed = f"dial {config.network} {where}: connect: {reason(error.errno or 0)}"
        if config.driver == "gelf":
            dialed = f"gelf: cannot connect to GELF endpoint: {where} {dialed}"
        return dialed
