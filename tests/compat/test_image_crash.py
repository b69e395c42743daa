"""kill -9 of lifecycle while images come and go: what is left is whole, and nothing is left over.

A few random moments in each run of the suite; LONGSHORE_KILLS=50 makes it fifty.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import polling
from tests.archives import Layer, docker_archive
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.registry import Registry

KILLS = int(os.environ.get("LONGSHORE_KILLS", "3"))
FILES = 300
LONGEST_SECONDS = 0.5


def layers(generator: random.Random) -> list[bytes]:
    made = []
    for number in range(3):
        layer = Layer().directory(f"d{number}")
        for index in range(FILES):
            layer.file(f"d{number}/{index}", generator.randbytes(generator.randrange(20_000)))
        made.append(layer.tar())
    return made


def trees(data_root: Path) -> dict[str, str]:
    """A digest of each finished layer's names and contents."""
    found = {}
    for layer in (data_root / "snapshots").glob("*/layer.json"):
        digest = hashlib.sha256()
        for path in sorted((layer.parent / "fs").rglob("*")):
            digest.update(str(path.relative_to(layer.parent)).encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
        found[layer.parent.name] = digest.hexdigest()
    return found


def size_on_disk(data_root: Path) -> int:
    """Of all files and links in finished layers, as Docker counts them."""
    layers = (path.parent / "fs" for path in (data_root / "snapshots").glob("*/layer.json"))
    states = (path.lstat() for layer in layers for path in layer.rglob("*"))
    counted = (
        state for state in states if stat.S_IFMT(state.st_mode) in (stat.S_IFREG, stat.S_IFLNK)
    )
    return sum({state.st_ino: state.st_size for state in counted}.values())


def store_files(data_root: Path) -> set[str]:
    """Everything that the image store has on disk, but for what is inside layers."""
    directories = ("content/sha256", "content/ingest", "snapshots", "snapshots/new", "snapshots/l")
    return {
        f"{directory}/{path.name}"
        for directory in directories
        for path in (data_root / directory).iterdir()
        if directory != "snapshots/l"
    } | {"links: " + str(len(list((data_root / "snapshots/l").iterdir())))}


class Lab:
    """An image in a registry and in an archive, and what commands do with it."""

    def __init__(self, engine: OwnEngine, registry: Registry, directory: Path) -> None:
        generator = random.Random(7)
        made = layers(generator)
        self.engine = engine
        self.remote = registry.put(f"{fresh_name()}:1", made, made)
        self.local = f"{fresh_name()}:1"
        self.archive = directory / "image.tar"
        self.archive.write_bytes(docker_archive([self.local], layers(generator)))
        self.container = fresh_name()
        self.committed = f"{fresh_name()}:1"
        script = f"for i in $(seq {FILES}); do echo $i >/tmp/$i; done"
        engine.docker("run", "--name", self.container, BUSYBOX, "sh", "-c", script)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        return [
            ("pull", "-q", self.remote),
            ("load", "-q", "-i", str(self.archive)),
            ("commit", self.container, self.committed),
            ("rmi", "-f", self.remote),
            ("rmi", "-f", self.local),
            ("rmi", "-f", self.committed),
        ]

    def clean(self) -> None:
        for name in (self.remote, self.local, self.committed):
            self.engine.docker("rmi", "-f", name, check=False)
        # Each commit took the tag from the one before.
        self.engine.docker("image", "prune", "-f")

    def wait(self) -> None:
        def answers() -> bool:
            return self.engine.api("GET", "/images/json").status == 200

        polling.until(answers, "lifecycle to be back", timeout=20)

    def check(self, good: dict[str, str]) -> None:
        """Each image that is listed can be inspected and saved, and its layers are whole."""
        for image in self.engine.api("GET", "/images/json?all=1").json():
            found = self.engine.api("GET", f"/images/{image['Id']}/json")
            assert found.status == 200, found.body
            with (
                subprocess.Popen(
                    [self.engine.cli, "save", image["Id"]],
                    env=self.engine.env,
                    stdout=subprocess.PIPE,
                ) as saving,
                tarfile.open(fileobj=saving.stdout, mode="r|") as archive,
            ):
                for entry in archive:
                    if match := re.fullmatch("blobs/sha256/([0-9a-f]{64})", entry.name):
                        content = archive.extractfile(entry)
                        assert content is not None
                        assert hashlib.sha256(content.read()).hexdigest() == match[1]
                # The archive's end may be in a block that nobody has asked for yet.
                assert saving.stdout is not None
                saving.stdout.read()
            assert saving.returncode == 0
        for name, digest in trees(self.engine.data_root).items():
            assert good.get(name) == digest, f"layer {name} is not whole"
        told = self.engine.api("GET", "/system/df?type=image").json()["LayersSize"]
        assert told == size_on_disk(self.engine.data_root)


@pytest.fixture
def lab(mortal: OwnEngine, registry: Registry, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(mortal, registry, tmp_path)
    yield lab
    lab.clean()
    mortal.docker("rm", "-f", lab.container)


@pytest.mark.timeout(60 + 30 * KILLS)
def test_kill_at_random_moments(engine: Engine, lab: Lab) -> None:
    mortal = lab.engine
    seed = random.randrange(1 << 32)
    generator = random.Random(seed)
    empty = store_files(mortal.data_root)
    for command in lab.commands[:3]:
        mortal.docker(*command)
    good = trees(mortal.data_root)
    assert len(good) == 1 + 3 + 3 + 1
    for number in range(KILLS):
        command = generator.choice(lab.commands)
        client = mortal.spawn(*command)
        time.sleep(generator.uniform(0, LONGEST_SECONDS))  # the moment is what is tried
        mortal.kill_lifecycle()
        client.communicate(timeout=30)
        lab.wait()
        try:
            lab.check(good)
            mortal.docker(*command, check=command[0] != "rmi")
            lab.check(good)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, kill {number}, {command}: {error}") from None
    lab.clean()
    assert store_files(mortal.data_root) == empty, f"seed {seed}"
