"""Library: a client whose socket the shim serves: ``docker attach``, ``run``, ``exec``, ``logs
-f``.

The socket was the client's HTTP connection; compat_api handed it over. It is never waited for:
what it does not take is queued, a full queue makes ProcessStreams pause the container's output
for a while, and a client that makes no progress is dropped. The socket's O_NONBLOCK flag is
shared with whoever else holds the socket, so that each call is made non-blocking by itself.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from shim.detach import DetachDetector
from shim.loop import Loop, Timer

STDOUT = 1
STDERR = 2

QUEUE_LIMIT = 1024 * 1024
QUEUE_LOW = 256 * 1024
RECEIVE_SIZE = 32 * 1024
# With a full queue the container waits for the client, so the client must take something.
STALL_SECONDS = 10.0
MINIMUM_PROGRESS = 4096
# After the container's end nobody waits but the shim: a pager may be in the way for long.
END_STALL_SECONDS = 300.0
# How long a client that still sends may take to close its side.
LINGER_SECONDS = 2.0

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_MAX_BUFFERS = 64
_HANGUP = select.EPOLLHUP | select.EPOLLERR
_frame_header = struct.Struct(">BxxxL").pack


Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class AttachOptions:
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    framed: bool = False  # Docker's header of stream and length before each piece of output
    detach_keys: bytes = b""
    early: bytes = b""  # what the client sent before its socket was handed over


class Owner(Protocol):
    """What a client needs of the process it is attached to; ProcessStreams is one."""

    terminal: bool

    @property
    def accepts_input(self) -> bool: ...
    def client_input(self, data: bytes) -> None: ...
    def client_input_ended(self, client: AttachedClient) -> None: ...
    def client_detached(self, client: AttachedClient) -> None: ...
    def client_room_changed(self) -> None: ...
    def client_closed(self, client: AttachedClient) -> None: ...


class AttachedClient:
    """Owns the client's socket until it is closed."""

    def __init__(
        self, loop: Loop, sock: socket.socket, options: AttachOptions, owner: Owner
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._options = options
        self._owner = owner
        self._detector = DetachDetector(options.detach_keys)
        self._early = options.early
        self._queue: deque[Buffer] = deque()
        self._queued = 0
        self._taken = 0
        self._taken_at_check = 0
        self._progress_timer: Timer | None = None
        self._linger_timer: Timer | None = None
        self._input_open = True
        self._hung_up = False
        self._ending = False
        self._registered = False
        self.full = False
        self.closed = False

    def start(self) -> None:
        """Serve the socket; comes after the owner has listed the client."""
        self.update_input()

    def deliver(self, stream: int, data: bytes) -> None:
        """Send or queue output, if the client asked for this stream."""
        wanted = self._options.stdout if stream == STDOUT else self._options.stderr
        if not wanted or self._ending or self.closed:
            return
        buffers: list[Buffer] = [data]
        if self._options.framed:
            buffers.insert(0, _frame_header(stream, len(data)))
        if self._queue:
            self._enqueue(buffers)
        else:
            self._send(buffers)

    def finish(self) -> None:
        """No more output will come: close when all that is queued has been taken."""
        if self._ending or self.closed:
            return
        self._ending = True
        if self._queue:
            self._restart_progress_timer()
        else:
            self._end_output()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.cancel(self._progress_timer)
        self._loop.cancel(self._linger_timer)
        if self._registered:
            self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._queue.clear()
        self._owner.client_closed(self)

    def update_input(self) -> None:
        """The owner's readiness for input has changed."""
        if self.closed:
            return
        if self._early and self._owner.accepts_input:
            early, self._early = self._early, b""
            self._take_input(early)
            if self.closed:
                return
        self._update_interest()

    @property
    def _wants_input(self) -> bool:
        """Input that nobody wants is read, too: its end must be seen."""
        if not self._input_open:
            return False
        if not self._options.stdin or self._ending:
            return True
        return self._owner.accepts_input and not self._early

    def _update_interest(self) -> None:
        events = select.EPOLLIN if self._wants_input else 0
        if self._queue:
            events |= select.EPOLLOUT
        # A hang-up is reported whatever is asked for, so a socket that hung up with input that
        # cannot be taken yet must leave the epoll set.
        wanted = not (self._hung_up and events == 0)
        if not wanted:
            if self._registered:
                self._loop.remove(self._socket.fileno())
        elif self._registered:
            self._loop.modify(self._socket.fileno(), events)
        else:
            self._loop.add(self._socket.fileno(), events, self._on_event)
        self._registered = wanted

    def _on_event(self, events: int) -> None:
        if events & select.EPOLLOUT and self._queue:
            self._send_queue()
        if self.closed:
            return
        if self._wants_input:
            if events & (select.EPOLLIN | _HANGUP):
                self._receive()
        elif events & _HANGUP:
            if self._input_open:
                self._hung_up = True
                self._drop_queue()
            else:
                self.close()
                return
        if not self.closed:
            self._update_interest()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            self._hung_up = True
        if data:
            if self._options.stdin and not self._ending:
                self._take_input(data)
            return
        self._end_input()

    def _take_input(self, data: bytes) -> None:
        if not self._owner.terminal:
            self._owner.client_input(data)
            return
        data, detached = self._detector.feed(data)
        if data:
            self._owner.client_input(data)
        if detached:
            self._owner.client_detached(self)
            self.finish()

    def _end_input(self) -> None:
        """The client shut down its sending side, or is gone: the next event tells."""
        self._input_open = False
        if self._ending:
            # Either it saw our end and closed, or it waits for the output that is still queued.
            if not self._queue:
                self.close()
            return
        if self._options.stdin:
            held = self._detector.flush()
            if held:
                self._owner.client_input(held)
            self._owner.client_input_ended(self)
        if self._hung_up:
            self.close()

    def _send(self, buffers: list[Buffer]) -> None:
        try:
            sent = self._socket.sendmsg(buffers, [], _SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost()
            return
        self._taken += sent
        for buffer in buffers:
            size = len(buffer)
            if sent >= size:
                sent -= size
                continue
            self._enqueue([memoryview(buffer)[sent:] if sent else buffer])
            sent = 0

    def _send_queue(self) -> None:
        buffers = [self._queue[n] for n in range(min(len(self._queue), _MAX_BUFFERS))]
        try:
            sent = self._socket.sendmsg(buffers, [], _SEND_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        self._taken += sent
        self._queued -= sent
        while sent:
            first = memoryview(self._queue.popleft())
            if len(first) > sent:
                self._queue.appendleft(first[sent:])
                break
            sent -= len(first)
        if self.full and self._queued <= QUEUE_LOW:
            self.full = False
            self._owner.client_room_changed()
        if not self._queue and self._ending:
            self._end_output()

    def _lost(self) -> None:
        """Sending failed: nobody is there for the output, but input may have been sent before."""
        self._drop_queue()
        if self._options.stdin and self._input_open and not self._ending:
            self._owner.client_input_ended(self)
        self.close()

    def _enqueue(self, buffers: list[Buffer]) -> None:
        was_empty = not self._queue
        for buffer in buffers:
            self._queue.append(buffer)
            self._queued += len(buffer)
        if was_empty and not self.closed:
            self._update_interest()
        if not self.full and self._queued >= QUEUE_LIMIT:
            self.full = True
            self._restart_progress_timer()
            self._owner.client_room_changed()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued = 0
        if self.full:
            self.full = False
            self._owner.client_room_changed()

    def _restart_progress_timer(self) -> None:
        self._loop.cancel(self._progress_timer)
        self._taken_at_check = self._taken
        seconds = END_STALL_SECONDS if self._ending else STALL_SECONDS
        self._progress_timer = self._loop.call_later(seconds, self._check_progress)

    def _check_progress(self) -> None:
        self._progress_timer = None
        if not (self.full or self._ending):
            return
        if self._taken - self._taken_at_check < MINIMUM_PROGRESS:
            self.close()
        else:
            self._restart_progress_timer()

    def _end_output(self) -> None:
        """Close, but not while the client may be sending.

        A socket that is closed with unread input resets the connection: the client sees an error
        in place of the end, and TCP may even lose output. So the end is announced, and input is
        thrown away until the client closes.
        """
        self._loop.cancel(self._progress_timer)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        if not self._input_open or not self._options.stdin:
            self._discard_input()
            self.close()
            return
        self._linger_timer = self._loop.call_later(LINGER_SECONDS, self.close)
        self._update_interest()

    def _discard_input(self) -> None:
        try:
            self._socket.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)
        except OSError:
            return
