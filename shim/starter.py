"""Process ``longshore-start <short id>``: forked by a shim, it creates and starts the container.

Creating a container runs through half of the interpreter's objects, and each page that holds one
is then the process's own. So the shim has it done by a copy of itself, which ends as soon as the
container's program runs; the shim, being a subreaper, gets the container as its child. Only what a
newborn cannot become (newborn.py) is created like this.

``Starter`` is the shim's side. The messages are those of shim/protocol.py, three questions (the
request; create, with the descriptors for stdin, stdout and stderr; start) and their answers.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from common.ids import short
from runtime import program, syscalls
from runtime.errors import RuntimeFailure
from shim.control import describe
from shim.protocol import Connection, ConnectionClosed, Message, close_all, unwrap
from shim.title import set_title


class StarterDied(RuntimeFailure):
    """Somebody killed it; what it had made is still there."""

    def __init__(self) -> None:
        super().__init__("start", "the process that creates the container died")


class Creator(Protocol):
    """What the copy does; the answers' fields and descriptors are for the shim."""

    def prepare(self, request: Message) -> Message: ...
    def create(self, stdio: list[int]) -> tuple[Message, Sequence[int]]: ...
    def start(self) -> None: ...


class Starter:
    """One copy of the shim, good for one start. Its methods are to be called in their order."""

    def __init__(self, container_id: str, exec_root: Path, creator: Creator) -> None:
        self._container_id = container_id
        self._exec_root = exec_root
        self._creator = creator
        self._connection: Connection | None = None

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._become(Connection(theirs))
        theirs.close()
        self._connection = Connection(ours)

    def request(self, request: Message) -> None:
        """Have the start prepared; the shim need not wait for it."""
        self._fork()
        self._open.send(request)

    def prepared(self) -> Message:
        return self._answer()[0]

    def create(self, stdio: Sequence[int]) -> tuple[Message, list[int]]:
        return self._ask(stdio)

    def start(self) -> None:
        self._ask()
        self.close()

    def close(self) -> None:
        """End the copy if it has nothing to do; an init that was not started dies with it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _open(self) -> Connection:
        assert self._connection is not None, "the request comes first"
        return self._connection

    def _ask(self, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        try:
            self._open.send({}, fds)
        except BrokenPipeError as e:
            raise StarterDied from e
        return self._answer()

    def _answer(self) -> tuple[Message, list[int]]:
        try:
            answer, fds = self._open.recv()
        except (ConnectionClosed, ConnectionResetError) as e:
            raise StarterDied from e
        try:
            return unwrap(answer), fds
        except BaseException:
            close_all(fds)
            raise

    def _become(self, connection: Connection) -> NoReturn:
        try:
            self._detach(connection)
            _serve(self._creator, connection)
        finally:
            os._exit(0)

    def _detach(self, connection: Connection) -> None:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        gc.disable()  # it does not live long enough
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A client's socket must be closed when the shim closes it, and not when this process ends.
        program.close_all_but([connection.fileno()])
        set_title(f"longshore-start {short(self._container_id)}", self._exec_root)


def _serve(creator: Creator, connection: Connection) -> None:
    try:
        request, _ = connection.recv()
        connection.send({"ok": creator.prepare(request)})
        _, stdio = connection.recv()
        created, fds = creator.create(stdio)
        connection.send({"ok": created}, fds)
        connection.recv()
        creator.start()
        connection.send({"ok": {}})
    except (ConnectionClosed, ConnectionResetError, BrokenPipeError):
        pass  # the shim has no more use for it
    except Exception as e:
        connection.send({"error": describe(e)})
