"""Library: one query passed on to other DNS servers, in the shim's loop.

All servers are asked at once. The first one's answer is preferred, because servers may know
different names, but it is waited for only a moment once another has answered: a dead server
stalls nobody. A failure (SERVFAIL, REFUSED) is used where there is nothing better.
"""

from __future__ import annotations

import errno
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from shim import dnsmessage
from shim.loop import Loop, Timer

PORT = 53
LIMIT_SECONDS = 4.0  # before the client's own five
GRACE_SECONDS = 0.1

OnResult = Callable[["Attempt", bytes | None], None]


class Attempt(ABC):
    """One query to one server, by a socket of its own: a fresh port makes forging hard."""

    def __init__(self, loop: Loop, sock: socket.socket, server: str, on_result: OnResult) -> None:
        self.server = server
        self.result: bytes | None = None
        self.failed = False
        self._loop = loop
        self._socket = sock
        self._on_result = on_result
        self._open = True
        sock.setblocking(False)

    @abstractmethod
    def send(self, query: bytes, end: int) -> None:
        """Begin; the answer comes by ``on_result``."""

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove(self._socket.fileno())
            self._socket.close()

    def _finish(self, response: bytes | None) -> None:
        self.close()
        self.result, self.failed = response, response is None
        self._on_result(self, response)


class DatagramAttempt(Attempt):
    def send(self, query: bytes, end: int) -> None:
        self._query, self._end = query, end
        self._socket.connect((self.server, PORT))
        self._socket.send(query)
        self._loop.add(self._socket.fileno(), select.EPOLLIN, self._on_readable)

    def _on_readable(self, _events: int) -> None:
        try:
            response = self._socket.recv(dnsmessage.LARGEST)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self._finish(None)
            return
        if dnsmessage.answers(response, self._query, self._end):
            self._finish(response)


class StreamAttempt(Attempt):
    def send(self, query: bytes, end: int) -> None:
        self._query, self._end = query, end
        self._pending = len(query).to_bytes(2) + query
        self._received = bytearray()
        failure = self._socket.connect_ex((self.server, PORT))
        if failure not in (0, errno.EINPROGRESS):
            raise OSError(failure, "connect")
        self._loop.add(self._socket.fileno(), select.EPOLLOUT, self._on_event)

    def _on_event(self, _events: int) -> None:
        try:
            if self._pending:
                self._pending = self._pending[self._socket.send(self._pending) :]
                if not self._pending:
                    self._loop.modify(self._socket.fileno(), select.EPOLLIN)
                return
            data = self._socket.recv(dnsmessage.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        size = 2 + int.from_bytes(self._received[:2])
        if len(self._received) >= max(size, 2 + dnsmessage.HEADER_BYTES):
            response = bytes(self._received[2:size])
            good = dnsmessage.answers(response, self._query, self._end)
            self._finish(response if good else None)
        elif not data:
            self._finish(None)


class Exchange:
    """A query on its way to several servers; ``on_done`` is called once, with None for silence."""

    def __init__(
        self,
        loop: Loop,
        attempts: Sequence[Attempt],
        on_done: Callable[[bytes | None, list[str]], None],
    ) -> None:
        self._loop = loop
        self._attempts = attempts
        self._on_done = on_done
        self._failure: bytes | None = None
        self._grace: Timer | None = None
        self._grace_over = False
        self._done = False
        self._limit = loop.call_later(LIMIT_SECONDS, self._give_up)

    def send(self, query: bytes, end: int) -> None:
        for attempt in self._attempts:
            try:
                attempt.send(query, end)
            except OSError:  # no route there
                attempt.close()
                attempt.failed = True
        self._evaluate()

    def on_result(self, attempt: Attempt, response: bytes | None) -> None:
        if response is not None and dnsmessage.rcode_of(response) in (
            dnsmessage.SERVFAIL,
            dnsmessage.REFUSED,
        ):
            self._failure = response
            attempt.result, attempt.failed = None, True
        self._evaluate()

    def close(self) -> None:
        self._done = True
        self._loop.cancel(self._limit)
        self._loop.cancel(self._grace)
        for attempt in self._attempts:
            attempt.close()

    def _evaluate(self) -> None:
        if self._done:
            return
        for attempt in self._attempts:
            if attempt.result is not None:
                self._finish(attempt.result)
                return
            if not attempt.failed and not self._grace_over:
                break
        else:
            if all(attempt.failed for attempt in self._attempts):
                self._finish(self._failure)
            return
        answered = any(attempt.result is not None for attempt in self._attempts)
        if answered and self._grace is None:
            self._grace = self._loop.call_later(GRACE_SECONDS, self._end_grace)

    def _end_grace(self) -> None:
        self._grace_over = True
        self._evaluate()

    def _give_up(self) -> None:
        self._finish(self._failure)

    def _finish(self, response: bytes | None) -> None:
        silent = [
            attempt.server
            for attempt in self._attempts
            if attempt.result is None and not attempt.failed
        ]
        self.close()
        self._on_done(response, silent)
