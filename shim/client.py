"""Library: the asyncio side of shim/protocol.py, for lifecycle and compat_api.

``ShimClient`` is one connection to a shim: requests by number, answers as futures, events to a
callback. ``ZygoteClient`` asks the zygote for
shims and jobs. The shim itself must not import this file.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import Unavailable
from shim.protocol import (
    Connection,
    ConnectionClosed,
    Message,
    ProtocolError,
    address,
    close_all,
    unwrap,
)

EventCallback = Callable[[Message], None]
ClosedCallback = Callable[[], None]


class _Channel(ABC):
    """A connection in the event loop; both kinds of client are built on it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._connection = Connection(sock)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._room: asyncio.Future[None] | None = None
        self._send_lock = asyncio.Lock()
        self._loop.add_reader(sock.fileno(), self._receive)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()
        self._has_room()
        self._on_closed()

    async def _send(self, message: Message, fds: Sequence[int]) -> None:
        async with self._send_lock:
            while not self._closed:
                try:
                    self._connection.send(message, fds)
                    return
                except BlockingIOError:
                    await self._wait_for_room()
                except OSError as e:
                    self.close()
                    raise Unavailable(f"shim connection: {e.strerror}") from e
        raise Unavailable("shim connection is closed")

    async def _wait_for_room(self) -> None:
        self._room = room = self._loop.create_future()
        self._loop.add_writer(self._connection.fileno(), self._has_room)
        try:
            await room
        finally:
            if not self._closed:
                self._loop.remove_writer(self._connection.fileno())

    def _has_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _receive(self) -> None:
        # All that is there, so that a burst of answers costs one turn of the loop.
        while not self._closed:
            try:
                message, fds = self._connection.recv()
            except BlockingIOError:
                return
            except (ConnectionClosed, ProtocolError, OSError):
                self.close()
                return
            close_all(fds)
            self._on_message(message)

    @abstractmethod
    def _on_message(self, message: Message) -> None: ...

    @abstractmethod
    def _on_closed(self) -> None: ...


class ShimClient(_Channel):
    """``on_event`` gets the events after ``subscribe``; ``on_closed`` is called once."""

    def __init__(
        self,
        sock: socket.socket,
        on_event: EventCallback | None = None,
        on_closed: ClosedCallback | None = None,
    ) -> None:
        self._event_callback = on_event
        self._closed_callback = on_closed
        self._next_seq = 1
        self._pending: dict[int, asyncio.Future[Message]] = {}
        super().__init__(sock)

    @classmethod
    async def connect(
        cls,
        path: Path,
        on_event: EventCallback | None = None,
        on_closed: ClosedCallback | None = None,
    ) -> ShimClient:
        """Connect to ``shim.sock``; OSError where no shim listens there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            with address(path) as short:
                await asyncio.get_running_loop().sock_connect(sock, short)
        except BaseException:
            sock.close()
            raise
        return cls(sock, on_event, on_closed)

    async def call(
        self, op: str, fields: Message | None = None, fds: Sequence[int] = ()
    ) -> Message:
        """The operation's answer; ShimError where the shim refuses, Unavailable when it is gone.

        ``fds`` stay the caller's, and may be closed when this returns.
        """
        seq = self._next_seq
        self._next_seq += 1
        await self._send({**(fields or {}), "op": op, "seq": seq}, fds)
        # _send does not yield after it has sent, so that no answer can have come yet.
        future: asyncio.Future[Message] = self._loop.create_future()
        self._pending[seq] = future
        try:
            return unwrap(await future)
        finally:
            self._pending.pop(seq, None)

    def _on_message(self, message: Message) -> None:
        if "event" in message:
            if self._event_callback is not None:
                self._event_callback(message)
            return
        future = self._pending.get(message.get("seq", 0))
        if future is not None and not future.done():
            future.set_result(message)

    def _on_closed(self) -> None:
        for future in self._pending.values():
            if not future.done():
                future.set_exception(Unavailable("the shim is gone"))
        if self._closed_callback is not None:
            self._closed_callback()


class ZygoteClient(_Channel):
    """lifecycle's end of the zygote's socketpair; answers come in the order of the requests."""

    def __init__(self, sock: socket.socket, on_closed: ClosedCallback | None = None) -> None:
        self._closed_callback = on_closed
        self._waiting: list[asyncio.Future[Message]] = []
        super().__init__(sock)

    async def fork(self, container_id: str, exec_root: Path) -> tuple[int, socket.socket]:
        """A new shim: its pid and our end of its first control connection, with its events."""
        request = {"op": "fork", "id": container_id, "subscribed": True}
        return await self._fork(request, exec_root, ())

    async def spare(self, op: str, exec_root: Path) -> socket.socket:
        """``spare`` or ``spare-job``, a process that waits: our end of its control socket.

        The first thing to ask of a shim is ``assign`` with the container's ``id``, which also
        subscribes; a job gets its request.
        """
        return (await self._fork({"op": op}, exec_root, ()))[1]

    async def job(self, request: Message, exec_root: Path, fds: Sequence[int]) -> socket.socket:
        """A new job: our end of its control socket, which ends it when it is closed.

        ``request`` is the job's (shim/jobs/process.py). ``fds`` stay the caller's, and may be
        closed when this returns.
        """
        return (await self._fork({**request, "op": "job"}, exec_root, fds))[1]

    async def _fork(
        self, request: Message, exec_root: Path, fds: Sequence[int]
    ) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                message = {**request, "exec_root": str(exec_root)}
                await self._send(message, [theirs.fileno(), *fds])
            # As in ShimClient.call; the queue is in the order of the requests.
            future: asyncio.Future[Message] = self._loop.create_future()
            self._waiting.append(future)
            answer = await future
            if "pid" not in answer:
                raise Unavailable(f"zygote: {answer.get('error')}")
            return int(answer["pid"]), ours
        except BaseException:
            ours.close()
            raise

    def _on_message(self, message: Message) -> None:
        future = self._waiting.pop(0)
        if not future.done():
            future.set_result(message)

    def _on_closed(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(Unavailable("the zygote is gone"))
        self._waiting.clear()
        if self._closed_callback is not None:
            self._closed_callback()
