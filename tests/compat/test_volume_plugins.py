"""Volume drivers that are plugins, found by their socket or by a file that names it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, OwnEngine, fresh_name

PROGRAM = Path(__file__).parents[1] / "volume_plugin.py"
SOCKETS = Path("/run/docker/plugins")
SPECIFICATIONS = Path("/etc/docker/plugins")


@dataclass
class Plugin:
    name: str
    root: Path
    socket: Path
    process: subprocess.Popen[bytes]

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = start(self.name, self.root, self.socket).process

    def calls(self, method: str) -> list[Any]:
        lines = (self.root / "calls").read_text().splitlines()
        return [body for name, body in map(json.loads, lines) if name == f"VolumeDriver.{method}"]


def start(name: str, root: Path, path: Path) -> Plugin:
    process = subprocess.Popen([sys.executable, PROGRAM, path, root])

    def answers() -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        except OSError:
            return False
        return True

    polling.until(answers, f"the plugin {name}")
    return Plugin(name, root, path, process)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    made = not SOCKETS.exists()
    SOCKETS.mkdir(parents=True, exist_ok=True)
    name = fresh_name()
    found = start(name, tmp_path / "plugin", SOCKETS / f"{name}.sock")
    yield found
    found.process.kill()
    found.process.wait()
    found.socket.unlink(missing_ok=True)
    if made:
        SOCKETS.rmdir()


@pytest.fixture
def volume(own_engine: OwnEngine, plugin: Plugin) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def make(**options: str) -> str:
        made.append(fresh_name())
        body = {"Name": made[-1], "Driver": plugin.name, "DriverOpts": options or None}
        answer = own_engine.api("POST", "/volumes/create", body)
        assert answer.status == 201, answer.body
        return made[-1]

    yield make
    for name in made:
        own_engine.api("DELETE", f"/volumes/{name}?force=1")


def test_life_of_a_volume(
    own_engine: OwnEngine, plugin: Plugin, volume: Callable[..., str]
) -> None:
    engine = own_engine
    name = volume(colour="red")
    assert plugin.calls("Create") == [{"Name": name, "Opts": {"colour": "red"}}]
    found = engine.api("GET", f"/volumes/{name}").json()
    place = plugin.root / "volumes" / name
    assert found["Driver"] == plugin.name
    assert (found["Mountpoint"], found["Scope"]) == (str(place), "global")
    assert (found["Status"], found["Options"]) == ({"mood": "good"}, {"colour": "red"})

    engine.docker("run", "--rm", "-v", f"{name}:/data", BUSYBOX, "touch", "/data/x")
    assert (place / "x").exists()
    mounts, unmounts = plugin.calls("Mount"), plugin.calls("Unmount")
    assert mounts
    assert mounts == unmounts
    assert {call["Name"] for call in mounts} == {name}

    assert engine.api("DELETE", f"/volumes/{name}").status == 204
    assert not place.exists()


def test_anonymous_volume_of_a_driver(own_engine: OwnEngine, plugin: Plugin, name: str) -> None:
    engine = own_engine
    engine.docker(
        *("run", "--name", name, "-v", "/data", "--volume-driver", plugin.name),
        *(BUSYBOX, "touch", "/data/x"),
    )
    mount = engine.inspect(name)["Mounts"][0]
    assert mount["Driver"] == plugin.name
    assert (plugin.root / "volumes" / mount["Name"] / "x").exists()
    engine.docker("rm", "-v", name)
    assert list((plugin.root / "volumes").iterdir()) == []


def test_volume_that_the_plugin_has_already(own_engine: OwnEngine, plugin: Plugin) -> None:
    engine = own_engine
    name = fresh_name()
    (plugin.root / "volumes" / name).mkdir()
    (plugin.root / "volumes" / name / "file").write_text("old\n")
    listed = engine.api("GET", "/volumes").json()["Volumes"]
    assert [item["Driver"] for item in listed if item["Name"] == name] == [plugin.name]
    shown = engine.docker("run", "--rm", "-v", f"{name}:/d", BUSYBOX, "cat", "/d/file")
    assert shown.stdout == "old\n"
    assert len(plugin.calls("Mount")) == len(plugin.calls("Unmount"))
    assert engine.api("DELETE", f"/volumes/{name}").status == 204


def test_refusal_in_the_plugins_words(own_engine: OwnEngine, plugin: Plugin) -> None:
    body = {"Name": "t-refused", "Driver": plugin.name, "DriverOpts": {"refuse": "1"}}
    answer = own_engine.api("POST", "/volumes/create", body)
    assert (answer.status, answer.message) == (500, "create t-refused: refused as asked")


def test_plugin_is_started_again(
    own_engine: OwnEngine, plugin: Plugin, volume: Callable[..., str]
) -> None:
    name = volume()
    plugin.restart()
    own_engine.docker("run", "--rm", "-v", f"{name}:/data", BUSYBOX, "touch", "/data/x")


def test_gone_plugin_does_not_keep_its_volume(
    own_engine: OwnEngine, plugin: Plugin, volume: Callable[..., str]
) -> None:
    name = volume()
    plugin.process.kill()
    plugin.socket.unlink()
    answer = own_engine.api("DELETE", f"/volumes/{name}")
    assert (answer.status, answer.message) == (
        404,
        f"remove {name}: error looking up volume plugin {plugin.name}: "
        f'plugin "{plugin.name}" not found',
    )
    assert own_engine.api("DELETE", f"/volumes/{name}?force=1").status == 204
    assert own_engine.api("GET", f"/volumes/{name}").status == 404


def test_info_names_the_driver(
    own_engine: OwnEngine, plugin: Plugin, volume: Callable[..., str]
) -> None:
    volume()
    assert plugin.name in own_engine.api("GET", "/info").json()["Plugins"]["Volume"]


def test_network_driver_is_refused_clearly(own_engine: OwnEngine, plugin: Plugin) -> None:
    def create() -> tuple[int, str]:
        body = {"Name": "t-plugged", "Driver": plugin.name}
        answer = own_engine.api("POST", "/networks/create", body)
        return answer.status, answer.message

    assert create() == (404, f'plugin "{plugin.name}" not found')
    (plugin.root / "implements").write_text("NetworkDriver")
    plugin.restart()
    assert create() == (
        501,
        f'plugin "{plugin.name}" is a network driver, and this engine supports plugins for '
        "volumes only",
    )


@pytest.mark.parametrize("kind", ["spec", "json"])
def test_found_by_a_file(own_engine: OwnEngine, plugin: Plugin, kind: str) -> None:
    alias = fresh_name()
    made = not SPECIFICATIONS.exists()
    SPECIFICATIONS.mkdir(parents=True, exist_ok=True)
    file = SPECIFICATIONS / f"{alias}.{kind}"
    url = f"unix://{plugin.socket}"
    file.write_text(url if kind == "spec" else json.dumps({"Name": alias, "Addr": url}))
    try:
        body = {"Name": alias, "Driver": alias}
        assert own_engine.api("POST", "/volumes/create", body).status == 201
        assert own_engine.api("DELETE", f"/volumes/{alias}").status == 204
    finally:
        file.unlink()
        if made:
            SPECIFICATIONS.rmdir()


def test_mount_is_known_after_a_crash(
    make_engine: Callable[..., OwnEngine], plugin: Plugin
) -> None:
    engine = make_engine()
    engine.load_busybox()
    body = {"Name": "t-kept", "Driver": plugin.name}
    assert engine.api("POST", "/volumes/create", body).status == 201
    engine.docker("run", "-d", "--name", "t-a", "-v", "t-kept:/d", BUSYBOX, "sleep", "1000")
    before = len(plugin.calls("Mount")) - len(plugin.calls("Unmount"))
    assert before == 1
    engine.kill_daemons()
    engine.start()
    engine.docker("rm", "-f", "t-a")
    assert plugin.calls("Mount")[-1] == plugin.calls("Unmount")[-1]
    engine.api("DELETE", "/volumes/t-kept")
    engine.destroy()
