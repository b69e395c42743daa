"""Worker: a task group whose failure is the first task's own error.

asyncio's raises an ExceptionGroup, which would cross the process border as text nobody can read.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from common.errors import EngineError


class TaskGroup(asyncio.TaskGroup):
    async def __aexit__(
        self,
        et: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(et, exc, tb)
        except BaseExceptionGroup as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in group.exceptions:
        if isinstance(error, EngineError):
            return error
    return group.exceptions[0]
