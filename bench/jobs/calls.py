"""Calls that look at containers, and the removal of one that runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.job import Figures, Job, milliseconds

CONTAINERS = 200
NOBODY = "sleep", "100000"


class List(Job):
    name = "list-200"
    what = f"call to list {CONTAINERS} stopped containers"
    samples = 20
    target = 1.0

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with ExitStack() as made:
            for _ in range(CONTAINERS):
                made.callback(self.endpoint.remove, self.endpoint.create("true"))
            yield

    def measure(self) -> Figures:
        found = []
        taken = milliseconds(
            lambda: found.extend(self.endpoint.call("GET", "/containers/json?all=1").json())
        )
        if len(found) < CONTAINERS:
            raise RuntimeError(f"{len(found)} containers listed")
        return {"": taken}


class Inspect(Job):
    name = "inspect"
    what = "call to inspect a running container"
    samples = 50
    target = 1.2

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.container = self.endpoint.start(*NOBODY)
        yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        return {"": milliseconds(lambda: self.endpoint.inspect(self.container))}


class RemoveRunning(Job):
    name = "rm-f"
    what = "call to remove a running container by force"
    samples = 10
    target = 0.3

    def measure(self) -> Figures:
        target = f"/containers/{self.endpoint.start(*NOBODY)}?force=1"
        return {"": milliseconds(lambda: self.endpoint.call("DELETE", target))}
