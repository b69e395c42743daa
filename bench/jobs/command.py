"""Whole docker commands, from fork to exit: what a person at a prompt waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.endpoint import IMAGE
from bench.job import Figures, Job, milliseconds


class RunBridge(Job):
    name = "run-bridge"
    what = "docker run --rm IMAGE true"
    target = 0.22

    def measure(self) -> Figures:
        return {"": milliseconds(lambda: self.endpoint.command("run", "--rm", IMAGE, "true"))}


class RunNone(Job):
    name = "run-none"
    what = "docker run --rm --network none IMAGE true"
    target = 0.32

    def measure(self) -> Figures:
        arguments = ("run", "--rm", "--network", "none", IMAGE, "true")
        return {"": milliseconds(lambda: self.endpoint.command(*arguments))}


class Exec(Job):
    name = "exec"
    what = "docker exec CONTAINER true"
    target = 0.45

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.container = self.endpoint.start("sleep", "100000")
        yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        return {"": milliseconds(lambda: self.endpoint.command("exec", self.container, "true"))}


class RunPublished(Job):
    name = "run-d-p"
    what = "docker run -d -p 0:80 IMAGE sleep (removal not timed)"
    target = 0.35

    def measure(self) -> Figures:
        started = []
        arguments = ("run", "-d", "-p", "0:80", IMAGE, "sleep", "100000")
        taken = milliseconds(lambda: started.append(self.endpoint.command(*arguments)))
        self.endpoint.remove(started[0].stdout.decode().strip())
        return {"": taken}
