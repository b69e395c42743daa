"""Volume drivers that are plugins, found by their socket or by a file that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import BUSYBOX, OwnEngine, fresh_name
from tests.plugin_process import PluginProcess, running

SPECIFICATIONS = Path("/etc/docker/plugins")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[PluginProcess]:
    with running("tests.volume_plugin", tmp_path / "plugin") as found:
        yield found


def calls(plugin: PluginProcess, method: str) -> list[Any]:
    return plugin.calls(f"VolumeDriver.{method}")


@pytest.fixture
def volume(own_engine: OwnEngine, plugin: PluginProcess) -> Iterator[Callable[..., str]]:
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
    own_engine: OwnEngine, plugin: PluginProcess, volume: Callable[..., str]
) -> None:
    engine = own_engine
    name = volume(colour="red")
    assert calls(plugin, "Create") == [{"Name": name, "Opts": {"colour": "red"}}]
    found = engine.api("GET", f"/volumes/{name}").json()
    place = plugin.root / "volumes" / name
    assert found["Driver"] == plugin.name
    assert (found["Mountpoint"], found["Scope"]) == (str(place), "global")
    assert (found["Status"], found["Options"]) == ({"mood": "good"}, {"colour": "red"})

    engine.docker("run", "--rm", "-v", f"{name}:/data", BUSYBOX, "touch", "/data/x")
    assert (place / "x").exists()
    mounts, unmounts = calls(plugin, "Mount"), calls(plugin, "Unmount")
    assert mounts
    assert mounts == unmounts
    assert {call["Name"] for call in mounts} == {name}

    assert engine.api("DELETE", f"/volumes/{name}").status == 204
    assert not place.exists()


def test_anonymous_volume_of_a_driver(
    own_engine: OwnEngine, plugin: PluginProcess, name: str
) -> None:
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


def test_volume_that_the_plugin_has_already(own_engine: OwnEngine, plugin: PluginProcess) -> None:
    engine = own_engine
    name = fresh_name()
    (plugin.root / "volumes" / name).mkdir()
    (plugin.root / "volumes" / name / "file").write_text("old\n")
    listed = engine.api("GET", "/volumes").json()["Volumes"]
    assert [item["Driver"] for item in listed if item["Name"] == name] == [plugin.name]
    shown = engine.docker("run", "--rm", "-v", f"{name}:/d", BUSYBOX, "cat", "/d/file")
    assert shown.stdout == "old\n"
    assert len(calls(plugin, "Mount")) == len(calls(plugin, "Unmount"))
    assert engine.api("DELETE", f"/volumes/{name}").status == 204


def test_refusal_in_the_plugins_words(own_engine: OwnEngine, plugin: PluginProcess) -> None:
    body = {"Name": "t-refused", "Driver": plugin.name, "DriverOpts": {"refuse": "1"}}
    answer = own_engine.api("POST", "/volumes/create", body)
    assert (answer.status, answer.message) == (500, "create t-refused: refused as asked")


def test_plugin_is_started_again(
    own_engine: OwnEngine, plugin: PluginProcess, volume: Callable[..., str]
) -> None:
    name = volume()
    plugin.restart()
    own_engine.docker("run", "--rm", "-v", f"{name}:/data", BUSYBOX, "touch", "/data/x")


def test_gone_plugin_does_not_keep_its_volume(
    own_engine: OwnEngine, plugin: PluginProcess, volume: Callable[..., str]
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
    own_engine: OwnEngine, plugin: PluginProcess, volume: Callable[..., str]
) -> None:
    volume()
    assert plugin.name in own_engine.api("GET", "/info").json()["Plugins"]["Volume"]


@pytest.mark.parametrize("kind", ["spec", "json"])
def test_found_by_a_file(own_engine: OwnEngine, plugin: PluginProcess, kind: str) -> None:
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
    make_engine: Callable[..., OwnEngine], plugin: PluginProcess
) -> None:
    engine = make_engine()
    engine.load_busybox()
    body = {"Name": "t-kept", "Driver": plugin.name}
    assert engine.api("POST", "/volumes/create", body).status == 201
    engine.docker("run", "-d", "--name", "t-a", "-v", "t-kept:/d", BUSYBOX, "sleep", "1000")
    before = len(calls(plugin, "Mount")) - len(calls(plugin, "Unmount"))
    assert before == 1
    engine.kill_daemons()
    engine.start()
    engine.docker("rm", "-f", "t-a")
    assert calls(plugin, "Mount")[-1] == calls(plugin, "Unmount")[-1]
    engine.api("DELETE", "/volumes/t-kept")
    engine.destroy()
