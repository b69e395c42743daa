"""Test support: a command on a pseudo-terminal, driven like by a person who types and reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from tests.polling import PATIENCE


class Terminal:
    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], rows: int = 24, columns: int = 80
    ):
        self.master, slave = pty.openpty()
        self._size(rows, columns)
        try:
            self.process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.output = ""
        self._seen = 0

    def _size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._size(rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """The first match in what came after the last match."""
        deadline = time.monotonic() + timeout * PATIENCE
        while not (match := re.compile(pattern).search(self.output, self._seen)):
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no {pattern!r} in {self.output[self._seen :]!r}")
        self._seen = match.end()
        return match

    def shows(self, pattern: str) -> bool:
        """Whether what ``expect`` looks for is there, or comes in a moment."""
        try:
            self.expect(pattern, timeout=0.1)
        except AssertionError:
            return False
        return True

    def wait(self, timeout: float = 20.0) -> int:
        """Exit code, after reading all output."""
        deadline = time.monotonic() + timeout * PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, timeout))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: no process has the other side open
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
