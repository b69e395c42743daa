"""Process ``longshore-init``: cloned by a shim, it becomes the container's first process.

It is there before it is needed, in namespaces of its own, and has nothing to wait for but its
container. What creating one takes is in runtime/inside.py; a container that needs a process
outside of its namespaces is created by a starter instead (starter.py). Once the container's
program runs, or when the shim ends, nothing is left of it.

``Newborn`` is the shim's side: the request, an answer, then the messages of runtime/inside.py.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.endpoint import plug_own
from common.netlink import Netlink
from runtime import create, inside, program, syscalls
from runtime.cgroups import manager
from runtime.channel import Channel
from runtime.channel import Message as RuntimeMessage
from runtime.errors import RuntimeFailure
from shim import configuration, rehearsal
from shim import request as requests
from shim.container import have_plugged, network_failure
from shim.control import describe
from shim.protocol import Connection, ConnectionClosed, Message, unwrap
from shim.title import set_title


class InitDied(RuntimeFailure):
    """Somebody killed it; what it had made is still there."""

    def __init__(self) -> None:
        super().__init__("start", "the container's first process died")


@dataclass(frozen=True, slots=True)
class Made:
    cgroup: str
    poststop: bool  # whether there are such hooks
    root: int | None  # descriptors, owned by the caller
    oom: int | None
    console: int | None


class Newborn:
    """One process, good for one container. Its methods are to be called in their order."""

    def __init__(self, exec_root: Path) -> None:
        self._exec_root = exec_root
        self._socket: socket.socket | None = None
        self.pid = 0
        self.pidfd = -1  # owned by this object
        self.undone = False  # it has failed, and left nothing

    def clone(self, *, idle: bool = False) -> None:
        """Have it ready; also called when it is needed, and then does it at once.

        ``idle``: nobody waits for it soon.
        """
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID)
        if pid == 0:
            _become(theirs, self._exec_root, idle=idle)
        theirs.close()
        self.use(ours, pid, pidfd)

    def use(self, sock: socket.socket, pid: int, pidfd: int) -> None:
        """Talk to that process; both descriptors belong to this object from now on."""
        self._socket, self.pid, self.pidfd = sock, pid, pidfd

    def request(self, container_id: str, request: Message) -> None:
        """Have the start prepared; the shim need not wait for it."""
        message = {"id": container_id, **request}
        self.clone()
        try:
            Connection(self._open).send(message)
        except BrokenPipeError:  # it was killed while it waited, and has done nothing yet
            self.close()
            self.clone()
            Connection(self._open).send(message)

    def prepared(self) -> Message:
        """``fits``: whether it can become this container; ``terminal``."""
        try:
            return unwrap(Connection(self._open).recv()[0])
        except (ConnectionClosed, ConnectionResetError) as e:
            raise InitDied from e

    def become(self, stdio: Sequence[int]) -> Made:
        """The container, up to its program."""
        channel = Channel(self._open)
        try:
            channel.send("become", tuple(stdio))
        except BrokenPipeError as e:
            raise InitDied from e
        try:
            made = self._receive(channel, "made")
        except RuntimeFailure as failure:
            self.undone = not isinstance(failure, InitDied)
            raise
        ready = self._receive(channel, "ready", made.fields["cgroup"])
        root, oom, *_ = (*made.fds, None, None)
        console, *_ = (*ready.fds, None)
        return Made(**made.fields, root=root, oom=oom, console=console)

    def start(self) -> None:
        """Returns when the program is being executed."""
        channel = Channel(self._open)
        channel.answer("start")
        while channel.receive() is not None:
            pass
        channel.close()
        self._socket = None

    def give_pidfd(self) -> int:
        pidfd, self.pidfd = self.pidfd, -1
        return pidfd

    def kill(self) -> None:
        """End it before its program runs, and wait for that."""
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        self.close()

    def close(self) -> None:
        """Give it up; one that has not been started ends by itself."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    @property
    def _open(self) -> socket.socket:
        assert self._socket is not None, "the request comes first"
        return self._socket

    def _receive(self, channel: Channel, kind: str, cgroup: str = "") -> RuntimeMessage:
        try:
            message = channel.receive()
        except ConnectionResetError as e:
            raise InitDied from e
        if message is None:
            raise create.death(self.pidfd, manager(cgroup)) if cgroup else InitDied
        assert message.kind == kind
        return message


# What follows runs in the process itself.


def _become(theirs: socket.socket, exec_root: Path, *, idle: bool) -> NoReturn:
    try:
        program.detach_from_parent([theirs.fileno()], die_with_parent=True)
        signal.set_wakeup_fd(-1)
        gc.disable()  # it does not live long enough
        set_title("longshore-init", exec_root)
        newborn = inside.Newborn()
        connection = Connection(theirs)
        with Netlink() as host:  # for what is to be done outside
            if not connection.readable():
                newborn.leave_host()
                if idle:
                    rehearsal.own_memory()
                else:
                    rehearsal.prepare_container()
            _serve(newborn, connection, host)
    finally:
        os._exit(1)


def _plug(host: Netlink, request: requests.CreationRequest) -> None:
    with network_failure():
        plug_own(host, request.endpoints or ())
        if request.broker:
            have_plugged(inside.host_pid(), request.broker)


def _serve(newborn: inside.Newborn, connection: Connection, host: Netlink) -> None:
    try:
        message, _ = connection.recv()
        request = requests.creation(message)
        spec = configuration.read(str(message["id"]), request)
        fits = inside.fits(spec, request.rootfs_mounts)
        if fits:
            newborn.take(spec, str(message["id"]), request.bundle)
            _plug(host, request)
        connection.send({"ok": {"fits": fits, "terminal": spec.process.terminal}})
    except (ConnectionClosed, ConnectionResetError, BrokenPipeError):
        return  # the shim has no more use for it
    except Exception as e:
        connection.send({"error": describe(e)})
        return
    channel = Channel(connection.socket)
    begin = channel.receive()
    if begin is not None:
        newborn.become(
            channel,
            begin.fds,
            state_root=request.state_root,
            rootfs_mounts=request.rootfs_mounts,
            seccomp_bpf=configuration.seccomp(request.seccomp_bpf),
        )
