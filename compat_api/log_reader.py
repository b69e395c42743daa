"""Part of longshored: a container's log as the blocks of an answer, also while it is written.

``read_log`` is what the /logs handler iterates over. Files are read and lines are rendered in
threads, one block at a time and the next one only when the client has taken the last, so that
neither a slow disk nor a slow client holds up the event loop or fills the memory. A follower sees
each line once: it goes through a renamed file to its end, then through all that came after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from compat_api import inotify
from compat_api.log_format import LogOptions, Renderer
from compat_api.log_segments import (
    Segment,
    close_all,
    open_segments,
    open_successors,
    skip_to_tail,
    was_renamed,
)

# How often a follower looks where inotify has nothing left to give.
POLL_SECONDS = 0.5

T = TypeVar("T")
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="logs")


async def read_log(
    path: Path,
    options: LogOptions,
    *,
    framed: bool,
    stopped: asyncio.Future[None] | None = None,
) -> AsyncGenerator[bytes, None]:
    """The answer's body in blocks. With ``stopped`` the log is followed until that is done and all
    that was written before has been read."""
    reader = _Reader(path, options, framed=framed)
    try:
        with ExitStack() as stack:
            if stopped is None:
                await reader.open()
                async for block in reader.read_to_end():
                    yield block
                return
            grown, timeout = _watch(path.parent, stack)
            stopped.add_done_callback(lambda _: grown.set())
            await reader.open()
            async for block in reader.follow(grown, stopped, timeout):
                yield block
    finally:
        reader.close()


class _Reader:
    def __init__(self, path: Path, options: LogOptions, *, framed: bool) -> None:
        self._path = path
        self._options = options
        self._renderer = Renderer(options, framed=framed)
        self._segments: list[Segment] = []
        self._job: Future[Any] | None = None

    async def open(self) -> None:
        await self._in_thread(self._open)

    def close(self) -> None:
        """Close the files once no thread reads them any more; a cancelled wait does not end one."""
        if self._job is not None:
            self._job.add_done_callback(lambda _: close_all(self._segments))

    async def read_to_end(self) -> AsyncIterator[bytes]:
        while self._segments and not self._renderer.finished:
            more, block = await self._in_thread(self._next_block)
            if block:
                yield block
            if not more:
                self._segments.pop(0).close()

    async def follow(
        self, grown: asyncio.Event, stopped: asyncio.Future[None], timeout: float | None
    ) -> AsyncIterator[bytes]:
        renamed = ended = False
        while not self._renderer.finished:
            grown.clear()
            more, block = await self._in_thread(self._next_block)
            if block:
                yield block
            if more:
                continue
            if len(self._segments) > 1:
                self._segments.pop(0).close()
                continue
            # Only a look that began after the writer had left the file shows that file's end.
            if renamed:
                await self._in_thread(self._go_on_in_successors)
                renamed = ended = False
                continue
            if ended:
                return
            renamed = await self._in_thread(self._was_renamed)
            ended = stopped.done() or self._until_is_over()
            if not renamed and not ended:
                await self._wait(grown, timeout)

    async def _wait(self, grown: asyncio.Event, timeout: float | None) -> None:
        if self._options.until:
            left = (self._options.until - time.time_ns()) / 1e9
            timeout = left if timeout is None else min(timeout, left)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await grown.wait()

    def _until_is_over(self) -> bool:
        return 0 < self._options.until < time.time_ns()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        job = _threads.submit(function)
        self._job = job
        return await asyncio.wrap_future(job)

    # In a thread:

    def _open(self) -> None:
        self._segments = open_segments(self._path)
        if self._options.tail is not None:
            self._segments = skip_to_tail(self._segments, self._options.tail)

    def _next_block(self) -> tuple[bool, bytes]:
        """Whether there was anything to read, and what it gave."""
        if not self._segments:
            self._segments = open_segments(self._path)
            if not self._segments:
                return False, b""
        lines = self._segments[0].read()
        return bool(lines), self._renderer.render(lines) if lines else b""

    def _was_renamed(self) -> bool:
        return bool(self._segments) and was_renamed(self._path, self._segments[0])

    def _go_on_in_successors(self) -> None:
        held = self._segments
        self._segments = open_successors(self._path, held[0])
        close_all(held)


def _watch(directory: Path, stack: ExitStack) -> tuple[asyncio.Event, float | None]:
    try:
        return stack.enter_context(inotify.watch(directory)), None
    except OSError:
        return asyncio.Event(), POLL_SECONDS
