"""-v, --mount and --tmpfs: binds, named and anonymous volumes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name

Runner = Callable[..., str]


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    chosen = fresh_name()
    yield chosen
    engine.api("DELETE", f"/volumes/{chosen}")


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """A directory that the engine sees too; another engine may have a /tmp of its own."""
    if engine.own:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=engine.socket.parent) as path:
        yield Path(path)


def run(engine: Engine, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments).stdout


def test_bind(engine: Engine, folder: Path) -> None:
    (folder / "in").write_text("from the host\n")
    script = "cat /data/in; echo from inside > /data/out"
    assert run(engine, "-v", f"{folder}:/data", BUSYBOX, "sh", "-c", script) == "from the host\n"
    assert (folder / "out").read_text() == "from inside\n"


def test_bind_of_a_file(engine: Engine, folder: Path) -> None:
    file = folder / "file"
    file.write_text("x\n")
    assert run(engine, "-v", f"{file}:/etc/deep/file", BUSYBOX, "cat", "/etc/deep/file") == "x\n"


def test_read_only_bind(engine: Engine, folder: Path) -> None:
    arguments = ("run", "--rm", "-v", f"{folder}:/data:ro", BUSYBOX, "touch", "/data/x")
    done = engine.docker(*arguments, check=False)
    assert (done.returncode, list(folder.iterdir())) == (1, [])
    assert "Read-only file system" in done.stderr


def test_missing_source_is_made(engine: Engine, folder: Path) -> None:
    run(engine, "-v", f"{folder}/new/dir:/data", BUSYBOX, "touch", "/data/x")
    assert (folder / "new/dir/x").exists()


def test_named_volume_outlives_its_container(engine: Engine, volume: str) -> None:
    run(engine, "-v", f"{volume}:/data", BUSYBOX, "sh", "-c", "echo kept > /data/file")
    assert run(engine, "-v", f"{volume}:/data", BUSYBOX, "cat", "/data/file") == "kept\n"


def test_new_volume_gets_the_image_content(engine: Engine, volume: str) -> None:
    assert "passwd" in run(engine, "-v", f"{volume}:/etc", BUSYBOX, "ls", "/etc").split()


def test_anonymous_volume_goes_with_rm(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "-v", "/data", BUSYBOX, "touch", "/data/x")
    mount = engine.inspect(name)["Mounts"][0]
    assert (mount["Type"], mount["Destination"]) == ("volume", "/data")
    engine.docker("rm", "-v", name)
    assert engine.api("GET", f"/volumes/{mount['Name']}").status == 404


def test_mounts_in_inspect(engine: Engine, volume: str, name: str, folder: Path) -> None:
    binds = [f"{folder}:/bind:ro", f"{volume}:/volume"]
    body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": {"Binds": binds}}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
    found = engine.inspect(name)
    assert found["HostConfig"]["Binds"] == binds
    mounts: dict[str, Any] = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert mounts["/bind"] == {
        "Type": "bind",
        "Source": str(folder),
        "Destination": "/bind",
        "Mode": "ro",
        "RW": False,
        "Propagation": "rprivate",
    }
    assert mounts["/volume"]["Name"] == volume
    assert (mounts["/volume"]["Driver"], mounts["/volume"]["RW"]) == ("local", True)


def test_tmpfs(engine: Engine) -> None:
    lines = run(engine, "--tmpfs", "/scratch:size=1m", BUSYBOX, "df", "-k", "/scratch").splitlines()
    assert lines[1].split()[:2] == ["tmpfs", "1024"]


def test_mount_option(engine: Engine, folder: Path) -> None:
    (folder / "file").write_text("x\n")
    option = f"type=bind,source={folder},target=/data,readonly"
    assert run(engine, "--mount", option, BUSYBOX, "cat", "/data/file") == "x\n"


def test_link_in_the_image_does_not_lead_out(engine: Engine, name: str, folder: Path) -> None:
    """A destination behind a link of the container's lands inside the container."""
    engine.docker("run", "--name", name, BUSYBOX, "ln", "-s", str(folder), "/trap")
    image = fresh_name()
    if engine.api("POST", f"/commit?container={name}&repo={image}").status != 201:
        pytest.skip("the engine does not commit images")
    try:
        run(engine, "-v", "/data", "-v", f"{folder}:/trap/inner", image, "true")
        assert list(folder.iterdir()) == []
    finally:
        engine.api("DELETE", f"/images/{image}?force=1")


def test_volumes_from(engine: Engine, volume: str, running: Runner) -> None:
    other = running("-v", f"{volume}:/data", BUSYBOX, "sh", "-c", "echo x > /data/f; sleep 100")
    engine.docker("exec", other, "sh", "-c", "until [ -s /data/f ]; do :; done")
    assert run(engine, "--volumes-from", other, BUSYBOX, "cat", "/data/f") == "x\n"


def test_no_mount_shows_on_the_host(engine: Engine, running: Runner, folder: Path) -> None:
    running("-v", f"{folder}:/data", BUSYBOX, "sleep", "100")
    assert f"{folder}/" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize(("version", "writable"), [("1.43", True), ("1.44", False)])
def test_read_only_covers_what_is_below(
    engine: Engine, own_engine: OwnEngine, name: str, tmp_path: Path, version: str, writable: bool
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    script = "touch /x/y 2>/dev/null; touch /x/below/y 2>/dev/null; true"
    host = {"Binds": [f"{tmp_path}:/x:ro"]}
    body = {"Image": BUSYBOX, "Cmd": ["sh", "-c", script], "HostConfig": host}
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        engine.api("POST", f"/v{version}/containers/create?name={name}", body)
        engine.docker("start", "-a", name)
        assert not (tmp_path / "y").exists()
        assert (below / "y").exists() is writable
    finally:
        engine.docker("rm", "-f", name)
        subprocess.run(["umount", below], check=True)
