"""Library: the stdin, stdout and stderr of one process, the container's or an exec's.

Runs in the shim. Owns this side's ends of the process' pipes, or the master of its terminal. What
the process writes goes to the log first and then to every attached client; what clients send goes
to the process. Nothing here ever waits. A client that falls behind makes the output pause
(attach.py says for how long), and input that the process does not read makes the clients pause.
"""

from __future__ import annotations

import fcntl
import functools
import os
import select
import socket
import struct
import termios
from collections.abc import Callable

from shim.attach import STDERR, STDOUT, AttachedClient, AttachOptions
from shim.logs import Log
from shim.loop import Loop

# 64 KiB, a pipe's size: with more the allocator maps and unmaps memory for each read.
READ_SIZE = 64 * 1024
INPUT_LIMIT = 64 * 1024
_TIOCGPTPEER = 0x5441  # asm-generic/ioctls.h; not in Python 3.11's termios
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class ProcessStreams:
    def __init__(
        self,
        loop: Loop,
        *,
        on_detach: Callable[[], None],
        on_client_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_detach = on_detach
        self._on_client_gone = on_client_gone
        self._log: Log | None = None
        self._outputs: dict[int, int] = {}  # descriptor -> STDOUT or STDERR
        self._child_ends: list[int] = []
        self._paused = False
        self._running = False
        self._finished = False
        self._stdin = -1
        self._stdin_armed = False
        self._stdin_closing = False
        self._stdin_once = False
        self._input = bytearray()
        self._terminal_peer = -1
        self.console = -1
        self.terminal = False
        self.clients: list[AttachedClient] = []

    def open_pipes(
        self, *, stdin: bool, stdout: bool = True, stderr: bool = True
    ) -> tuple[int, int, int]:
        """Descriptors for the process; they live until ``close_child_ends``."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._child_ends.append(null)
        child_stdin = self._input_pipe() if stdin else null
        child_stdout = self._output_pipe(STDOUT) if stdout else null
        child_stderr = self._output_pipe(STDERR) if stderr else null
        return child_stdin, child_stdout, child_stderr

    def close_child_ends(self) -> None:
        while self._child_ends:
            os.close(self._child_ends.pop())

    def adopt_console(self, master: int, *, stdin: bool) -> None:
        """Serve the terminal whose ``master`` the runtime made, and own it."""
        os.set_blocking(master, False)
        self.terminal = True
        self.console = master
        self._outputs[master] = STDOUT
        # While no process has the terminal open the master gives EIO, for instance when a shell
        # closes its descriptors to open /dev/console anew. With this peer it only ever has
        # nothing to read, and the end of the process is the end of the output.
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        self._terminal_peer = fcntl.ioctl(master, _TIOCGPTPEER, flags)
        if stdin:
            # A descriptor of its own, since epoll keeps one set of events for each.
            self._stdin = fcntl.fcntl(master, fcntl.F_DUPFD_CLOEXEC, 0)

    def begin(self, log: Log | None, *, stdin_once: bool) -> None:
        """The process exists: move its output, and the clients' input."""
        self._log = log
        self._stdin_once = stdin_once
        self._running = True
        if not self._paused:
            self._register_outputs()
        self._input_changed()

    def attach(self, sock: socket.socket, options: AttachOptions) -> None:
        client = AttachedClient(self._loop, sock, options, self)
        self.clients.append(client)
        client.start()
        if self._finished:
            client.finish()

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def drain(self) -> bool:
        """Read what is there now, also where a client is slow.

        True when no more can come: all pipes are at their end, or it is a terminal.
        """
        for fd, stream in list(self._outputs.items()):
            while fd in self._outputs and self._read_output(fd, stream):
                pass
        return self.terminal or not self._outputs

    def finish(self) -> None:
        """The process is gone, and reported: end the clients' connections."""
        self._finished = True
        self.close()
        for client in list(self.clients):
            client.finish()

    def close(self) -> None:
        """Let go of the process' side and end the log's lines; the clients stay."""
        self.close_child_ends()
        for fd, stream in list(self._outputs.items()):
            self._close_output(fd, stream)
        self._close_stdin()
        if self._terminal_peer >= 0:
            os.close(self._terminal_peer)
            self._terminal_peer = -1

    def drop_clients(self) -> None:
        for client in list(self.clients):
            client.close()

    # What AttachedClient calls.

    @property
    def accepts_input(self) -> bool:
        return self._running and len(self._input) < INPUT_LIMIT

    def client_input(self, data: bytes) -> None:
        if self._stdin < 0 or self._stdin_closing:
            return
        was_empty = not self._input
        self._input += data
        if was_empty:
            self._write_input()

    def client_input_ended(self, client: AttachedClient) -> None:
        """As Docker: with StdinOnce the end of a client's input is the end of the container's.

        Without it, and for a terminal, it ends the attachment (moby container/stream/attach.go).
        """
        if self._stdin_once and not self.terminal:
            self._stdin_closing = True
            if not self._input:
                self._close_stdin()
        else:
            client.finish()

    def client_detached(self, client: AttachedClient) -> None:
        self._on_detach()

    def client_room_changed(self) -> None:
        pause = any(client.full for client in self.clients)
        if pause == self._paused:
            return
        self._paused = pause
        if not self._running:
            return
        if pause:
            # Without events epoll still reports a hang-up, so the descriptors leave the set.
            for fd in self._outputs:
                self._loop.remove(fd)
        else:
            self._register_outputs()

    def client_closed(self, client: AttachedClient) -> None:
        self.clients.remove(client)
        self.client_room_changed()
        self._on_client_gone()

    # Output.

    def _output_pipe(self, stream: int) -> int:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._outputs[ours] = stream
        self._child_ends.append(theirs)
        return theirs

    def _register_outputs(self) -> None:
        for fd, stream in self._outputs.items():
            callback = functools.partial(self._on_output, fd, stream)
            self._loop.add(fd, select.EPOLLIN, callback)

    def _on_output(self, fd: int, stream: int, _events: int) -> None:
        self._read_output(fd, stream)

    def _read_output(self, fd: int, stream: int) -> bool:
        """Move one read's worth; False when nothing was there."""
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._close_output(fd, stream)
            return False
        if self._log is not None:
            self._log.write(_NAMES[stream], data)
        for client in tuple(self.clients):
            client.deliver(stream, data)
        return True

    def _close_output(self, fd: int, stream: int) -> None:
        self._loop.remove(fd)
        del self._outputs[fd]
        os.close(fd)
        if fd == self.console:
            self.console = -1
        if self._log is not None:
            self._log.end(_NAMES[stream])

    # Input.

    def _input_pipe(self) -> int:
        theirs, ours = os.pipe()
        os.set_blocking(ours, False)
        self._stdin = ours
        self._child_ends.append(theirs)
        return theirs

    def _write_input(self) -> None:
        try:
            while self._input:
                # A part of it, so that a full pipe does not copy all that is queued again.
                written = os.write(self._stdin, self._input[:READ_SIZE])
                del self._input[:written]
        except BlockingIOError:
            if not self._stdin_armed:
                self._stdin_armed = True
                self._loop.add(self._stdin, select.EPOLLOUT, self._on_stdin_writable)
            return
        except OSError:
            # The process closed its stdin: what comes is thrown away, as if it were read.
            self._close_stdin()
            return
        if self._stdin_armed:
            self._stdin_armed = False
            self._loop.remove(self._stdin)
        if self._stdin_closing:
            self._close_stdin()

    def _on_stdin_writable(self, _events: int) -> None:
        self._write_input()
        self._input_changed()

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.remove(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        self._stdin_armed = False
        self._input.clear()

    def _input_changed(self) -> None:
        for client in tuple(self.clients):
            client.update_input()
