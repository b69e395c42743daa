"""Runs the jobs: endpoints in turn within each round, so that the machine's moods hit all alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from bench.endpoint import Endpoint
from bench.job import Job


@dataclass
class Series:
    """All samples of one figure on one endpoint, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    def add(self, number: int, value: float) -> None:
        while len(self.rounds) <= number:
            self.rounds.append([])
        self.rounds[number].append(value)

    @property
    def median(self) -> float:
        return median(value for values in self.rounds for value in values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest median of a round."""
        medians = [median(values) for values in self.rounds if values]
        return min(medians), max(medians)


@dataclass
class JobResult:
    job: type[Job]
    # figure -> endpoint -> samples
    figures: dict[str, dict[str, Series]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, endpoint: str, figure: str, number: int, value: float) -> None:
        self.figures.setdefault(figure, {}).setdefault(endpoint, Series()).add(number, value)


def run_job(kind: type[Job], endpoints: Sequence[Endpoint], rounds: int) -> JobResult:
    result = JobResult(kind)
    jobs = {endpoint.name: kind(endpoint) for endpoint in endpoints}

    def attempt(name: str, action: Callable[[], object]) -> None:
        """One endpoint's failure does not end the others' measurement."""
        try:
            action()
        except Exception as error:
            result.failures[name] = str(error)
            print(f"{kind.name} on {name}: {error}", file=sys.stderr)

    with ExitStack() as stack:
        for name, job in jobs.items():
            attempt(name, partial(stack.enter_context, job.prepared()))
        for number in range(rounds):
            for name, job in jobs.items():
                if name not in result.failures:
                    attempt(name, partial(sample, job, number, result))
    return result


def sample(job: Job, number: int, result: JobResult) -> None:
    for _ in range(job.samples):
        for figure, value in job.measure().items():
            result.add(job.endpoint.name, figure, number, value)
