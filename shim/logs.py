"""Library: the logs that a container's output goes to: a file, a server, both or none."""

from __future__ import annotations

from typing import Protocol

from shim.logfile import LogConfig, LogFile
from shim.loop import Loop
from shim.remoteformats import RemoteConfig
from shim.remotelog import RemoteLog


class Log(Protocol):
    def write(self, stream: str, data: bytes) -> None: ...

    def end(self, stream: str) -> None: ...

    def close(self) -> None: ...


class Both:
    """A server, and the file from which ``docker logs`` is answered."""

    def __init__(self, *logs: Log) -> None:
        self._logs = logs

    def write(self, stream: str, data: bytes) -> None:
        for log in self._logs:
            log.write(stream, data)

    def end(self, stream: str) -> None:
        for log in self._logs:
            log.end(stream)

    def close(self) -> None:
        for log in self._logs:
            log.close()


def open_log(config: LogConfig, loop: Loop) -> Log | None:
    if config.driver == "none":
        return None
    remote = RemoteLog(RemoteConfig(**config.remote), loop) if config.remote else None
    if not config.path:
        return remote
    file = LogFile(config, loop.when_idle)
    return file if remote is None else Both(file, remote)
