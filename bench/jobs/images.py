"""Whole docker commands that move an image: pull, load, save, push.

The image has one layer that no other image on any endpoint has: some thousands of small files of
the machine's /usr, and a file of its own. What brings it here is measured cold: the image is
removed beforehand and the disk is at rest. The registry is a real one on the loopback.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import secrets
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.job import Figures, Job, milliseconds
from tests.archives import docker_archive
from tests.registry import Registry

MEGABYTES = 120
LARGEST_FILE = 1 << 20
LARGE_MEGABYTES = 2048
AT_ONCE = 10


def usr_layer() -> bytes:
    """A tar of about ``MEGABYTES``."""
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        own = tarfile.TarInfo("own")
        own.size = 32
        archive.addfile(own, io.BytesIO(secrets.token_bytes(own.size)))
        for directory, directories, files in os.walk("/usr"):
            directories.sort()
            for name in ("", *sorted(files)):
                path = os.path.join(directory, name).rstrip("/")
                if os.lstat(path).st_size <= LARGEST_FILE:
                    archive.add(path, recursive=False)
            if buffer.tell() > MEGABYTES << 20:
                break
    return buffer.getvalue()


def large_layer(file: Path) -> None:
    """A tar with one file of ``LARGE_MEGABYTES`` that does not compress."""
    noise = secrets.token_bytes(1 << 20)
    info = tarfile.TarInfo("large")
    info.size = LARGE_MEGABYTES << 20
    with file.open("wb") as out:
        out.write(info.tobuf())
        for _ in range(LARGE_MEGABYTES):
            out.write(noise)
        out.write(bytes(1024))


class _WithRegistry(Job):
    samples = 1
    _numbers = itertools.count()

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        with tempfile.TemporaryDirectory(prefix="bench-registry-") as directory:
            registry = Registry(Path(directory))
            registry.start()
            try:
                yield registry
            finally:
                registry.stop()

    def forget(self, name: str) -> None:
        self.endpoint.command("rmi", "-f", name)
        os.sync()


class _Pulled(_WithRegistry):
    @contextmanager
    def prepared(self) -> Iterator[None]:
        with self.registry() as self.source:
            layer = usr_layer()
            compressed = gzip.compress(layer, 6, mtime=0)
            self.reference = self.source.put("bench/usr:1", [layer], [compressed])
            yield


class Pull(_Pulled):
    name = "image-pull"
    what = f"docker pull of an image of {MEGABYTES} MB, of which nothing is there"
    target = 0.5

    def measure(self) -> Figures:
        os.sync()
        taken = milliseconds(lambda: self.endpoint.command("pull", "-q", self.reference))
        self.forget(self.reference)
        return {"": taken}


class PullAtOnce(_Pulled):
    name = "image-pull-10"
    what = f"{AT_ONCE} clients pull the same image of {MEGABYTES} MB at once"

    def measure(self) -> Figures:
        def pull() -> None:
            self.endpoint.command("pull", "-q", self.reference)

        def all_at_once() -> None:
            clients = [threading.Thread(target=pull) for _ in range(AT_ONCE)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()

        os.sync()
        before = self.source.downloads("bench/usr")
        taken = milliseconds(all_at_once)
        self.forget(self.reference)
        # The configuration and the layer: 1 is once.
        fetched = self.source.downloads("bench/usr") - before
        return {"": taken, "number of downloads of each blob": float(max(fetched.values()))}


class PullMemory(_WithRegistry):
    name = "image-pull-memory"
    what = f"what pulling a layer of {LARGE_MEGABYTES} MB needs above the daemons' idle memory"
    unit = "MB"

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with ExitStack() as stack:
            registry = stack.enter_context(self.registry())
            file = registry.directory / "layer.tar"
            large_layer(file)
            self.reference = registry.put_file("bench/large:1", file)
            file.unlink()
            yield

    def measure(self) -> Figures:
        idle = self.endpoint.memory()
        peak = self.endpoint.peak_memory("pull", "-q", self.reference)
        self.forget(self.reference)
        return {"": peak - idle, "idle": idle}


class _WithArchive(_WithRegistry):
    """The image in the form of an archive, as ``docker save`` of any version writes it."""

    reference = "bench/usr:archive"

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="bench-archive-") as directory:
            self.archive = Path(directory) / "image.tar"
            self.archive.write_bytes(docker_archive([self.reference], [usr_layer()]))
            yield

    def load(self) -> None:
        self.endpoint.command("load", "-q", "-i", str(self.archive))


class Load(_WithArchive):
    name = "image-load"
    what = f"docker load of an image of {MEGABYTES} MB, of which nothing is there"
    target = 0.5

    def measure(self) -> Figures:
        os.sync()
        taken = milliseconds(self.load)
        self.forget(self.reference)
        return {"": taken}


class Save(_WithArchive):
    name = "image-save"
    what = f"docker save of an image of {MEGABYTES} MB that was loaded"
    target = 1.0
    samples = 3

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with super().prepared():
            self.load()
            yield
            self.forget(self.reference)

    def measure(self) -> Figures:
        return {"": milliseconds(lambda: self.endpoint.output_length("save", self.reference))}


class Push(_WithArchive):
    name = "image-push"
    what = f"docker push of an image of {MEGABYTES} MB that was loaded, to an empty registry"
    target = 0.8

    def measure(self) -> Figures:
        self.load()
        with self.registry() as registry:
            name = f"{registry.address}/bench/usr:{next(self._numbers)}"
            self.endpoint.command("tag", self.reference, name)
            os.sync()
            taken = milliseconds(lambda: self.endpoint.command("push", "-q", name))
            self.forget(name)
        self.forget(self.reference)
        return {"": taken}
