"""Library: a container's json-file log, written by its shim alone.

    <path>            the current file, appended to, mode 0640
    <path>.1[.gz]     the one before; up to max_file - 1 of them, as Docker names them
    <path>.2[.gz] ...

Every read of output is one write, at once, so that nothing sits in a buffer when a process dies.
A file that has reached max_size is renamed before the next line is written; with ``compress`` the
renamed one is compressed piece by piece between the shim's other work, without a thread or a
process: a thread would be there when the shim forks, and a fork may land in the container's pid
namespace.

When the disk is full the lines are dropped and counted: a full disk must not stop the container.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shim.logformat import Encoder

COMPRESS_STEP = 64 * 1024
# A rotation waits for the compression of the file before, but the current file must stay bounded.
WAIT_FOR_COMPRESSION = 2
_OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o640


@dataclass(frozen=True, slots=True)
class LogConfig:
    driver: str = "none"
    path: str = ""
    max_size: int | None = None
    max_file: int = 1
    compress: bool = False
    attrs: dict[str, str] = field(default_factory=dict)
    remote: dict[str, Any] | None = None  # shim.remoteformats.RemoteConfig


class LogFile:
    """The log of one container; ``when_idle`` gets the steps of a compression (Loop.when_idle)."""

    def __init__(self, config: LogConfig, when_idle: Callable[[Callable[[], bool]], None]) -> None:
        self._config = config
        self._when_idle = when_idle
        self._encoders: dict[str, Encoder] = {}
        self._compressor: Compressor | None = None
        self.dropped = 0
        self._fd = os.open(config.path, _OPEN_FLAGS, _MODE)
        self._size = os.fstat(self._fd).st_size
        self._end_torn_line()

    def write(self, stream: str, data: bytes) -> None:
        encoder = self._encoders.get(stream)
        if encoder is None:
            encoder = self._encoders[stream] = Encoder(stream, self._config.attrs)
        encoded = encoder.feed(data, time.time_ns())
        if encoded:
            self._append(encoded)

    def end(self, stream: str) -> None:
        """The stream is at its end: what it wrote after its last newline becomes a line."""
        encoder = self._encoders.pop(stream, None)
        if encoder is not None:
            encoded = encoder.flush(time.time_ns())
            if encoded:
                self._append(encoded)

    def close(self) -> None:
        for stream in list(self._encoders):
            self.end(stream)
        if self._compressor is not None:
            self._compressor.finish()
            self._compressor = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, encoded: bytes) -> None:
        limit = self._config.max_size
        if limit is None:
            self._write(encoded)
            return
        # As Docker's driver: a file is rotated when a line is to be written and it is full already,
        # so every file but the current one ends with the line that filled it.
        while encoded:
            if self._size >= limit:
                self._rotate(limit)
            border = encoded.find(b"\n", max(limit - self._size - 1, 0)) + 1
            piece = encoded if border in (0, len(encoded)) else encoded[:border]
            self._write(piece)
            encoded = encoded[len(piece) :]

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:] if done else data)
            self._size += done
        except OSError:
            self.dropped += data.count(b"\n")
            if done:
                # Half a line would spoil the next one, too.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - done)

    def _end_torn_line(self) -> None:
        """A shim that was killed while it wrote left half a line; the next one starts afresh."""
        if self._size == 0:
            return
        fd = os.open(self._config.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            last = os.pread(fd, 1, self._size - 1)
        finally:
            os.close(fd)
        if last != b"\n":
            self._write(b"\n")

    def _rotate(self, limit: int) -> None:
        if self._compressor is not None:
            if self._size < limit * WAIT_FOR_COMPRESSION:
                return
            self._compressor.finish()
            self._compressor = None
        try:
            self._rename_files()
            fd = os.open(self._config.path, _OPEN_FLAGS | os.O_TRUNC, _MODE)
        except OSError:
            # The current file goes on; the next write tries again.
            return
        os.close(self._fd)
        self._fd = fd
        self._size = 0
        if self._config.compress and self._config.max_file > 1:
            self._compressor = Compressor(f"{self._config.path}.1")
            self._when_idle(self._compress_step)

    def _rename_files(self) -> None:
        path, count = self._config.path, self._config.max_file
        if count < 2:
            # Readers may have the old file open, so it is not truncated.
            os.unlink(path)
            return
        suffix = ".gz" if self._config.compress else ""
        for number in range(count - 1, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}.{number - 1}{suffix}", f"{path}.{number}{suffix}")
        os.rename(path, f"{path}.1")

    def _compress_step(self) -> bool:
        compressor = self._compressor
        if compressor is None:
            return False
        if compressor.step():
            return True
        self._compressor = None
        return False


class Compressor:
    """Replaces ``path`` by ``path``.gz in small steps; at every moment one of the two is whole."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f"{path}.gz.tmp"
        self._source = -1
        self._target = -1
        self._gzip = zlib.compressobj(level=6, wbits=zlib.MAX_WBITS | 16)

    def step(self) -> bool:
        """Compress a little more; False when it is done or cannot be done."""
        try:
            if self._source < 0:
                self._open()
            data = os.read(self._source, COMPRESS_STEP)
            self._put(self._gzip.compress(data) if data else self._gzip.flush())
            if data:
                return True
            os.rename(self._temporary, f"{self._path}.gz")
            os.unlink(self._path)
        except OSError:
            # The uncompressed file stays, which readers try first.
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        self._close()
        return False

    def finish(self) -> None:
        while self.step():
            pass

    def _open(self) -> None:
        self._source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._target = os.open(self._temporary, flags, _MODE)

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._target, data) :]

    def _close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
