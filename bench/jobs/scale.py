"""Whether a start gets slower when many other containers exist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.job import Figures, Job, milliseconds

CREATED = 250
RUNNING = 50
SAMPLES = 10


class StartAmong(Job):
    name = "start-with-300"
    what = f"start call, with {CREATED} created and {RUNNING} running others"
    samples = 10

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.alone = [self._start() for _ in range(SAMPLES)]
        others = [self.endpoint.create("true") for _ in range(CREATED)]
        others += [self.endpoint.start("sleep", "100000") for _ in range(RUNNING)]
        yield
        for container in others:
            self.endpoint.remove(container)

    def measure(self) -> Figures:
        figures = {"": self._start()}
        if self.alone:
            figures["the same alone"] = self.alone.pop()
        return figures

    def _start(self) -> float:
        container = self.endpoint.create("sleep", "100000")
        taken = milliseconds(lambda: self.endpoint.call("POST", f"/containers/{container}/start"))
        self.endpoint.remove(container)
        return taken
