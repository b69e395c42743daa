"""Output of a container: through the log and a client at once, and through a client alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.endpoint import IMAGE
from bench.job import Figures, Job, milliseconds

LINES = 200_000
LINE = "x" * 63
BYTES = 200_000_000


class Logs(Job):
    name = "logs200k"
    what = f"docker run printing {LINES} lines of 64 bytes, attached and logged"
    samples = 1
    target = 0.35

    def measure(self) -> Figures:
        command = ("run", "--rm", IMAGE, "sh", "-c", f"yes {LINE} | head -n {LINES}")
        printed = b""

        def run() -> None:
            nonlocal printed
            printed = self.endpoint.command(*command).stdout

        taken = milliseconds(run)
        if printed != f"{LINE}\n".encode() * LINES:
            raise RuntimeError(f"{len(printed)} bytes instead of {LINES} lines")
        return {"": taken}


class ReadLogs(Job):
    name = "logs-read"
    what = f"docker logs of {LINES} lines of 64 bytes"
    samples = 2
    target = 0.5

    @contextmanager
    def prepared(self) -> Iterator[None]:
        script = f"yes {LINE} | head -n {LINES}"
        self.container = self.endpoint.start("sh", "-c", script)
        self.endpoint.call("POST", f"/containers/{self.container}/wait")
        yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        length = 0

        def read() -> None:
            nonlocal length
            length = self.endpoint.output_length("logs", self.container)

        taken = milliseconds(read)
        if length != LINES * (len(LINE) + 1):
            raise RuntimeError(f"{length} bytes instead of {LINES} lines")
        return {"": taken}


class Attach(Job):
    name = "attach200mb"
    what = f"docker run printing {BYTES // 1_000_000} MB, attached, not logged"
    samples = 1
    target = 0.8

    def measure(self) -> Figures:
        command = (
            "run",
            "--rm",
            "--log-driver",
            "none",
            IMAGE,
            "head",
            "-c",
            str(BYTES),
            "/dev/zero",
        )
        length = 0

        def run() -> None:
            nonlocal length
            length = self.endpoint.output_length(*command)

        taken = milliseconds(run)
        if length != BYTES:
            raise RuntimeError(f"{length} bytes instead of {BYTES}")
        return {"": taken}
