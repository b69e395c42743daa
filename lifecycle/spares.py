"""Library of lifecycle: processes that the zygote forks before anybody needs them.

Forking one and having its pages copied takes longer than most of what it is there for. So some
wait all made, and new ones are made when nobody waits for anything; who comes while there is none
has one forked. A spare is known by its control socket alone, and ends when lifecycle closes that,
or dies.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from common.errors import Unavailable

log = logging.getLogger(__name__)

Make = Callable[[], Awaitable[socket.socket]]


class Spares:
    def __init__(
        self, name: str, count: int, pause: float, make: Make, busy: Callable[[], bool]
    ) -> None:
        """``pause``: seconds without a use, so that the next ones are made at none's cost.

        ``busy``: whether somebody waits for something, so that it has to be later.
        """
        self._name = name
        self._count = count
        self._seconds = pause
        self._make = make
        self._busy = busy
        self._ready: list[socket.socket] = []
        self._making: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._rests = 0

    def take(self) -> socket.socket | None:
        """The caller's from now on; it may be dead."""
        spare = self._ready.pop() if self._ready else None
        self.want_later()
        return spare

    def want_later(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._pause = asyncio.get_running_loop().call_later(self._seconds, self.want)

    def want(self) -> None:
        if self._rests or self._making is not None or len(self._ready) >= self._count:
            return
        if self._busy():
            self.want_later()
        else:
            self._making = asyncio.create_task(self._fill(), name=self._name)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Make none meanwhile, however long it takes."""
        self._rests += 1
        try:
            yield
        finally:
            self._rests -= 1
            self.want_later()

    def drop(self) -> None:
        """End those that wait."""
        while self._ready:
            self._ready.pop().close()

    async def close(self) -> None:
        self._count = 0
        if self._pause is not None:
            self._pause.cancel()
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        self.drop()

    async def _fill(self) -> None:
        try:
            while len(self._ready) < self._count and not self._rests:
                if self._busy():
                    self.want_later()
                    return
                self._ready.append(await self._make())
        except Unavailable as error:
            log.warning("making a %s: %s", self._name, error)
        finally:
            self._making = None
