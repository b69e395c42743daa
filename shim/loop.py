"""Library: the shim's event loop, epoll and timers and nothing else.

The shim is single-threaded and everything in it is a callback of this loop. asyncio would cost
each shim megabytes; ``selectors`` costs a set of objects per event. A callback gets the epoll
event mask.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

MAX_EVENTS = 64

EventCallback = Callable[[int], None]


class Timer:
    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: float, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.callback = callback


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, EventCallback] = {}
        # A shim has a handful of timers at most, so that a list is the right queue.
        self._timers: list[Timer] = []
        self._idle: list[Callable[[], bool]] = []
        self._running = False

    def add(self, fd: int, events: int, callback: EventCallback) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget ``fd``; must come before its close. Harmless when it is not registered."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def when_idle(self, step: Callable[[], bool]) -> None:
        """Call ``step`` whenever nothing else is to do, until it returns False."""
        self._idle.append(step)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        self._running = True
        while self._running:
            for fd, events in self._epoll.poll(self._timeout(), MAX_EVENTS):
                # An earlier callback of this round may have removed the descriptor.
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)
            if self._timers:
                self._run_timers()
            if self._idle:
                self._idle = [step for step in self._idle if step()]

    def close(self) -> None:
        self._epoll.close()

    def _timeout(self) -> float:
        if self._idle:
            return 0
        if not self._timers:
            return -1
        return max(0.0, min(timer.deadline for timer in self._timers) - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        for timer in [timer for timer in self._timers if timer.deadline <= now]:
            if timer in self._timers:
                self._timers.remove(timer)
                timer.callback()
