"""What a job is: a few named figures, measured once or many times on one endpoint.

To add one, write a file in bench/jobs/ with a subclass and put it into ``JOBS`` there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import ClassVar

from bench.endpoint import Endpoint

Figures = dict[str, float]


class Job:
    name: ClassVar[str]
    what: ClassVar[str]  # one line for the report
    unit: ClassVar[str] = "ms"
    samples: ClassVar[int] = 5  # in each round
    # Largest ratio to Docker Engine that the project allows itself.
    target: ClassVar[float | None] = None

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Around all rounds of this job on this endpoint."""
        yield

    def measure(self) -> Figures:
        """One sample. The key "" is the job's own figure; others are named under it."""
        raise RuntimeError(f"{self.name} measures nothing")


def milliseconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return (perf_counter() - start) * 1000
