"""longshored: owns the lifecycle process: ends an older one, starts it, starts it again, ends it.

The first start happens before the event loop and the API's imports, so that both processes start at
the same time. Lifecycle goes on when longshored is killed; the next longshored finds it by
``lifecycle.pid`` and ends it, since its options may be other ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from common.options import EngineOptions
from common.paths import Paths

log = logging.getLogger("longshored")

END_SECONDS = 15.0  # until SIGKILL
# So many deaths in a row before it served anybody mean that another start will not help.
MAX_EARLY_DEATHS = 5


class Supervisor:
    def __init__(self, paths: Paths, options: EngineOptions) -> None:
        self._paths = paths
        self._options = options.to_json()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False

    def end_older(self) -> None:
        """End a lifecycle process that an earlier longshored left in the same exec root."""
        try:
            pid = int(self._paths.lifecycle_pid.read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        try:
            # Read after the open: from here on the number cannot become another process's.
            if is_lifecycle(pid):
                log.info("ending the lifecycle process %d of an earlier start", pid)
                end(pidfd)
        finally:
            os.close(pidfd)

    def start(self) -> None:
        self._paths.exec_root.mkdir(mode=0o711, parents=True, exist_ok=True)
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "lifecycle"]
        command += ["--data-root", str(self._paths.data_root)]
        command += ["--exec-root", str(self._paths.exec_root), "--options-fd", str(reader)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=(reader,),
                stdin=subprocess.DEVNULL,
                # ^C in a terminal is for longshored, which then ends lifecycle in order.
                process_group=0,
            )
            # Options are far smaller than a pipe.
            os.write(writer, self._options)
        finally:
            os.close(reader)
            os.close(writer)

    async def run(self, on_death: Callable[[], None]) -> None:
        """Start it again whenever it dies; returns only when that is hopeless."""
        early_deaths = 0
        while True:
            await self._wait()
            assert self._process is not None
            status = self._process.wait()
            on_death()
            if self._ending:
                return
            early_deaths = 0 if self._served(self._process.pid) else early_deaths + 1
            if early_deaths >= MAX_EARLY_DEATHS:
                log.critical(
                    "the lifecycle process cannot be started: its exit status is %d", status
                )
                return
            log.error("the lifecycle process ended with status %d: starting it again", status)
            self.start()

    def _served(self, pid: int) -> bool:
        """Lifecycle writes its pid down when it can be called, and kill -9 leaves that."""
        try:
            return int(self._paths.lifecycle_pid.read_text()) == pid
        except (OSError, ValueError):
            return False

    def end(self) -> None:
        self._ending = True
        if self._process is None or self._process.poll() is not None:
            return
        with open_pidfd(self._process.pid) as pidfd:
            end(pidfd)
        self._process.wait()

    async def _wait(self) -> None:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        with open_pidfd(self._process.pid) as pidfd:
            ended = asyncio.Event()
            loop.add_reader(pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(pidfd)


@contextlib.contextmanager
def open_pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def end(pidfd: int) -> None:
    """SIGTERM, and SIGKILL if that does not help in time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        if poller.poll(seconds * 1000):
            return


def is_lifecycle(pid: int) -> bool:
    """By its command line, which is also its title."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b" ", b"\0").split(b"\0")
    except OSError:
        return False
    return words[0] == b"longshore-lifecycle" or words[1:3] == [b"-m", b"lifecycle"]
