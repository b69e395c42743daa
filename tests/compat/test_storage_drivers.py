"""The plain-copy driver, and a data root that keeps the driver it was made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests import polling
from tests.archives import Layer, busybox_layer, docker_archive
from tests.engine import Engine, OwnEngine, fresh_name

TAR = {"Content-Type": "application/x-tar"}
IMAGE = "t-copies:1"


@pytest.fixture(scope="module")
def copies(make_engine: Callable[..., OwnEngine]) -> Iterator[OwnEngine]:
    engine = make_engine("--storage-driver", "vfs")
    lower = Layer().directory("d").file("d/gone", "1").file("d/kept", "1").directory("opaque")
    lower.file("opaque/below", "1").file("changed", "1").hardlink("hard", "changed")
    upper = Layer().directory("d").file("d/.wh.gone", "").file("opaque/.wh..wh..opq", "")
    upper.file("opaque/above", "2").file("changed", "2").file("-dash", "2").file(".wh.-dash", "")
    archive = docker_archive([IMAGE], [busybox_layer(), lower.tar(), upper.tar()])
    assert engine.api("POST", "/images/load?quiet=1", archive, TAR).status == 200
    yield engine
    engine.destroy()


@pytest.fixture
def container(copies: OwnEngine) -> Iterator[str]:
    name = fresh_name()
    yield name
    copies.docker("rm", "-f", name, check=False)


def test_it_is_shown(engine: Engine, copies: OwnEngine) -> None:
    assert copies.api("GET", "/info").json()["Driver"] == "vfs"
    found = copies.api("GET", f"/images/{IMAGE}/json").json()
    assert found["GraphDriver"] == {"Data": None, "Name": "vfs"}


def test_layers_over_each_other(engine: Engine, copies: OwnEngine) -> None:
    script = "ls /d /opaque; cat /changed /hard ./-dash; mount | grep -c ' / type overlay'"
    shown = copies.docker("run", "--rm", IMAGE, "sh", "-c", f"{script}; true").stdout
    assert shown == "/d:\nkept\n\n/opaque:\nabove\n2120\n"


def test_changes_and_commit(engine: Engine, copies: OwnEngine, container: str) -> None:
    script = "echo x >/new; rm /d/kept; echo more >>/changed; mkdir /tmp/dir"
    copies.docker("run", "--name", container, IMAGE, "sh", "-c", script)
    changes = copies.docker("diff", container).stdout.splitlines()
    assert sorted(changes) == sorted(
        ["A /new", "C /d", "D /d/kept", "C /changed", "C /tmp", "A /tmp/dir"]
    )
    copies.docker("commit", container, "t-committed:1")
    shown = copies.docker(
        "run", "--rm", "t-committed:1", "sh", "-c", "cat /new /changed; ls /d /tmp"
    ).stdout
    assert shown == "x\n2more\n/d:\n\n/tmp:\ndir\n"
    copies.docker("rmi", "t-committed:1")
    assert copies.docker("cp", f"{container}:/new", "-").stdout
    assert "new" in copies.docker("export", container).stdout


def test_restart_keeps_containers(engine: Engine, copies: OwnEngine, container: str) -> None:
    copies.docker("create", "--name", container, IMAGE, "cat", "/changed")
    copies.restart()
    assert copies.docker("start", "-a", container).stdout == "2"
    copies.docker("rm", container)
    fixed = ("init", "l", "new", "driver")

    def left() -> list[str]:
        names = [path.name for path in (copies.data_root / "snapshots").iterdir()]
        return [name for name in names if len(name) != 64 and name not in fixed]

    polling.until(
        lambda: not left(), "the container's directories to go", explain=lambda: str(left())
    )


def test_other_driver_on_the_same_root(engine: Engine, copies: OwnEngine) -> None:
    copies.stop()
    flags, copies.flags = copies.flags, ("--storage-driver", "overlay2")
    with pytest.raises((AssertionError, OSError)):
        copies.start()
    assert copies.process
    copies.process.wait(20)
    copies.process = None
    assert "was made with the storage driver vfs" in copies.log_tail()
    copies.flags = flags
    copies.start()
