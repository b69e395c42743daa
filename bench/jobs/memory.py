"""Memory of the daemons, and of what each container costs beside its own processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from statistics import mean

from bench.endpoint import memory
from bench.job import Figures, Job

CONTAINERS = 50


class Memory(Job):
    name = "memory"
    what = f"PSS of a container's parent process with {CONTAINERS} running; RSS of the daemons"
    unit = "MB"
    samples = 1

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.containers = [self.endpoint.start("sleep", "100000") for _ in range(CONTAINERS)]
        yield
        for container in self.containers:
            self.endpoint.remove(container)

    def measure(self) -> Figures:
        parents = self.endpoint.parents(self.containers)
        if len(parents) != CONTAINERS:
            raise RuntimeError(f"{len(parents)} parent processes for {CONTAINERS} containers")
        figures = {"": mean(memory(parent.pid)["Pss"] for parent in parents)}
        for daemon in self.endpoint.daemons():
            program = PurePath(daemon.title.split(" ")[0]).name
            figures[f"RSS of {program}"] = memory(daemon.pid)["Rss"]
        return figures
