"""Worker: work that several operations want at once is done once.

The task belongs to all who wait for it: one that is cancelled leaves the rest alone, and the last
one takes the task along. Progress goes to each; one that comes late gets the newest report first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")
Report = TypeVar("Report")


@dataclass(slots=True)
class _Shared(Generic[Result, Report]):
    task: asyncio.Task[Result]
    listeners: list[Callable[[Report], None]] = field(default_factory=list)
    newest: Report | None = None

    def tell(self, report: Report) -> None:
        self.newest = report
        for listener in self.listeners:
            listener(report)


class SharedTasks(Generic[Result, Report]):
    def __init__(self) -> None:
        self._running: dict[str, _Shared[Result, Report]] = {}

    async def run(
        self,
        key: str,
        work: Callable[[Callable[[Report], None]], Awaitable[Result]],
        progress: Callable[[Report], None],
    ) -> Result:
        """The result of ``work``, or of the one with the same key that is under way."""
        shared = self._running.get(key)
        if shared is None:
            shared = self._begin(key, work)
        elif shared.newest is not None:
            progress(shared.newest)
        shared.listeners.append(progress)
        try:
            return await asyncio.shield(shared.task)
        except asyncio.CancelledError:
            if len(shared.listeners) == 1 and not shared.task.done():
                self._running.pop(key, None)  # who comes now begins anew
                shared.task.cancel()
                await asyncio.wait((shared.task,))
            raise
        finally:
            shared.listeners.remove(progress)

    def _begin(
        self, key: str, work: Callable[[Callable[[Report], None]], Awaitable[Result]]
    ) -> _Shared[Result, Report]:
        async def run() -> Result:
            return await work(shared.tell)

        shared: _Shared[Result, Report] = _Shared(asyncio.ensure_future(run()))
        self._running[key] = shared

        def over(task: asyncio.Task[Result]) -> None:
            if self._running.get(key) is shared:
                del self._running[key]
            if not task.cancelled():
                task.exception()  # each waiter raises it; none may be left

        shared.task.add_done_callback(over)
        return shared
