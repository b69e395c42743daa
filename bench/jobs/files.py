"""A container's files from outside: docker cp of one big file, and commit of many small ones."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.job import Figures, Job, milliseconds

BYTES = 100_000_000
FILES = 1000


class CopyIn(Job):
    name = "cp-in-100mb"
    what = f"docker cp of a file of {BYTES // 1_000_000} MB into a running container"
    samples = 2
    target = 0.8

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.container = self.endpoint.start("sleep", "100000")
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            self.file = Path(directory) / "file"
            self.file.write_bytes(secrets.token_bytes(BYTES // 100) * 100)
            yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        target = f"{self.container}:/tmp/{secrets.token_hex(4)}"
        taken = milliseconds(lambda: self.endpoint.command("cp", "-q", str(self.file), target))
        self.endpoint.command("exec", self.container, "sh", "-c", "rm /tmp/*")
        return {"": taken}


class CopyOut(Job):
    name = "cp-out-100mb"
    what = f"docker cp of a file of {BYTES // 1_000_000} MB out of a running container"
    samples = 2
    target = 0.8

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self.container = self.endpoint.start("sleep", "100000")
        script = f"head -c {BYTES} /dev/urandom > /file"
        self.endpoint.command("exec", self.container, "sh", "-c", script)
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            self.copy = Path(directory) / "file"
            yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        source = f"{self.container}:/file"
        taken = milliseconds(lambda: self.endpoint.command("cp", "-q", source, str(self.copy)))
        length = self.copy.stat().st_size
        self.copy.unlink()
        if length != BYTES:
            raise RuntimeError(f"{length} bytes instead of {BYTES}")
        return {"": taken}


class Commit(Job):
    name = "commit-1000"
    what = f"docker commit of a stopped container with {FILES} changed files"
    samples = 2
    target = 0.8

    @contextmanager
    def prepared(self) -> Iterator[None]:
        script = f"mkdir /new; for i in $(seq {FILES}); do echo $i > /new/$i; done"
        self.container = self.endpoint.create("sh", "-c", script)
        self.endpoint.call("POST", f"/containers/{self.container}/start")
        self.endpoint.call("POST", f"/containers/{self.container}/wait")
        yield
        self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        made: list[str] = []

        def commit() -> None:
            done = self.endpoint.command("commit", self.container)
            made.append(done.stdout.decode().strip())

        taken = milliseconds(commit)
        self.endpoint.call("DELETE", f"/images/{made[0]}")
        return {"": taken}
