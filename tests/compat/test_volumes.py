"""/volumes and what containers do with volumes: drivers' options, subpaths, references, events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import census, polling
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.rawhttp import filters

Runner = Callable[..., str]


@pytest.fixture
def volume(engine: Engine) -> Iterator[Callable[..., str]]:
    """Makes volumes by the API, and removes them afterwards."""
    made: list[str] = []

    def make(**body: Any) -> str:
        chosen = str(body.setdefault("Name", fresh_name()))
        made.append(chosen)
        answer = engine.api("POST", "/volumes/create", body)
        assert answer.status == 201, answer.body
        return chosen

    yield make
    for chosen in made:
        assert engine.api("DELETE", f"/volumes/{chosen}?force=1").status == 204


def with_device(device: str, **options: str) -> dict[str, Any]:
    return {"DriverOpts": {"type": "none", "o": "bind", "device": device, **options}}


def run(engine: Engine, *arguments: str, check: bool = True) -> str:
    done = engine.docker("run", "--rm", *arguments, check=check)
    return done.stdout + done.stderr


def mounted_on_host(engine: Engine, name: str) -> bool:
    path = engine.api("GET", f"/volumes/{name}").json()["Mountpoint"]
    return path in census.mounts()


def events(engine: Engine, since: float, *kinds: str) -> list[tuple[str, str, dict[str, str]]]:
    wanted = filters(type=list(kinds))
    answer = engine.api("GET", f"/events?since={since:.9f}&until={time.time():.9f}&{wanted}")
    return [
        (event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"])
        for event in answer.objects()
    ]


@pytest.mark.parametrize(
    ("given", "labels", "options"),
    [
        ({}, None, None),
        ({"Labels": None, "DriverOpts": None}, None, None),
        ({"Labels": {}, "DriverOpts": {}}, {}, {}),
        ({"Labels": {"a": "b"}}, {"a": "b"}, None),
    ],
)
def test_null_and_empty_are_told_apart(
    engine: Engine, volume: Callable[..., str], given: dict[str, Any], labels: Any, options: Any
) -> None:
    found = engine.api("GET", f"/volumes/{volume(**given)}").json()
    assert (found["Labels"], found["Options"]) == (labels, options)
    assert (found["Driver"], found["Scope"]) == ("local", "local")


def test_anonymous_volume_has_its_label(engine: Engine) -> None:
    made = engine.api("POST", "/volumes/create", {}).json()
    engine.api("DELETE", f"/volumes/{made['Name']}")
    assert made["Labels"] == {"com.docker.volume.anonymous": ""}
    assert len(made["Name"]) == 64


def test_create_of_an_existing_one(engine: Engine, volume: Callable[..., str]) -> None:
    name = volume(Labels={"a": "b"})
    again = engine.api("POST", "/volumes/create", {"Name": name, "Labels": {"c": "d"}})
    assert (again.status, again.json()["Labels"]) == (201, {"a": "b"})


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Name": "x"}, 400, "create x: volume name is too short"),
        ({"Name": "a/b"}, 400, 'create a/b: "a/b" includes invalid characters'),
        ({"Name": "t-1", "DriverOpts": {"a": "b"}}, 400, 'create t-1: invalid option: "a"'),
        (
            {"Name": "t-1", "DriverOpts": {"type": "tmpfs"}},
            400,
            'create t-1: missing required option: "device"',
        ),
        ({"Name": "t-1", "DriverOpts": {"size": "10m"}}, 400, "but no quota support"),
        (
            {"Name": "t-1", "Driver": "t-none"},
            404,
            'create t-1: error looking up volume plugin t-none: plugin "t-none" not found',
        ),
    ],
)
def test_refusals(engine: Engine, body: dict[str, Any], status: int, text: str) -> None:
    answer = engine.api("POST", "/volumes/create", body)
    assert answer.status == status
    assert text in answer.message


def test_unknown(engine: Engine) -> None:
    for method in ("GET", "DELETE"):
        answer = engine.api(method, "/volumes/t-none")
        assert (answer.status, answer.message) == (404, "get t-none: no such volume")
    assert engine.api("DELETE", "/volumes/t-none?force=1").status == 204


def test_in_use(engine: Engine, volume: Callable[..., str], name: str) -> None:
    chosen = volume()
    engine.docker("create", "--name", name, "-v", f"{chosen}:/data", BUSYBOX)
    answer = engine.api("DELETE", f"/volumes/{chosen}?force=1")
    container = engine.inspect(name)["Id"]
    assert answer.status == 409
    assert answer.message == f"remove {chosen}: volume is in use - [{container}]"


def test_tmpfs_volume(engine: Engine, volume: Callable[..., str], running: Runner) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}
    chosen = volume(DriverOpts=options)
    assert not mounted_on_host(engine, chosen)
    first = running("-v", f"{chosen}:/data", BUSYBOX, "sleep", "1000")
    script = "stat -c %u /data && df -k /data | tail -1 && touch /data/x"
    found = engine.docker("exec", first, "sh", "-c", script).stdout.split()
    assert (found[0], found[2]) == ("1000", "1024")
    second = run(engine, "-v", f"{chosen}:/data", BUSYBOX, "ls", "/data")
    assert second == "x\n"
    engine.docker("rm", "-f", first)
    if engine.own:
        assert not mounted_on_host(engine, chosen)
    assert run(engine, "-v", f"{chosen}:/data", BUSYBOX, "ls", "/data") == ""


def test_bind_volume(own_engine: OwnEngine, volume: Callable[..., str], tmp_path: Path) -> None:
    engine = own_engine
    (tmp_path / "file").write_text("x\n")
    chosen = volume(**with_device(str(tmp_path)))
    assert run(engine, "-v", f"{chosen}:/data", BUSYBOX, "cat", "/data/file") == "x\n"
    assert engine.api("DELETE", f"/volumes/{chosen}").status == 204
    assert (tmp_path / "file").exists()


def test_read_only_bind_volume(
    own_engine: OwnEngine, volume: Callable[..., str], tmp_path: Path
) -> None:
    chosen = volume(**with_device(str(tmp_path), o="bind,ro"))
    found = run(own_engine, "-v", f"{chosen}:/data", BUSYBOX, "touch", "/data/x", check=False)
    assert "Read-only file system" in found


def test_device_that_is_not_there(own_engine: OwnEngine, volume: Callable[..., str]) -> None:
    chosen = volume(**with_device("/no/such/directory"))
    found = run(own_engine, "-v", f"{chosen}:/data", BUSYBOX, "true", check=False)
    path = f"{own_engine.data_root}/volumes/{chosen}/_data"
    assert (
        f"error while mounting volume '{path}': failed to mount local volume: "
        f"mount /no/such/directory:{path}, flags: 0x1000: no such file or directory"
    ) in found


def test_password_is_not_told(own_engine: OwnEngine, volume: Callable[..., str]) -> None:
    options = {"type": "cifs", "device": "//127.0.0.1/x", "o": "addr=127.0.0.1,password=secret"}
    found = run(own_engine, "-v", f"{volume(DriverOpts=options)}:/d", BUSYBOX, check=False)
    assert "failed to mount local volume" in found
    assert "secret" not in found


def test_mount_outlives_a_crash(make_engine: Callable[..., OwnEngine], tmp_path: Path) -> None:
    engine = make_engine()
    engine.load_busybox()
    (tmp_path / "kept").touch()
    for name in ("t-tmp", "t-bind"):
        options = with_device(str(tmp_path))["DriverOpts"]
        if name == "t-tmp":
            options = {"type": "tmpfs", "device": "tmpfs"}
        engine.api("POST", "/volumes/create", {"Name": name, "DriverOpts": options})
    engine.docker("run", "-d", "--name", "t-a", "-v", "t-tmp:/t", BUSYBOX, "sleep", "1000")
    engine.docker("run", "-d", "--name", "t-b", "-v", "t-bind:/b", BUSYBOX, "sleep", "1000")
    engine.docker("exec", "t-a", "touch", "/t/x")
    pid = engine.inspect("t-b")["State"]["Pid"]
    shim = engine.shim_pid("t-b")
    engine.kill_daemons()
    census.kill(shim)
    census.kill(pid)
    engine.start()
    assert mounted_on_host(engine, "t-tmp")
    polling.until(lambda: not mounted_on_host(engine, "t-bind"), "the unused one to be unmounted")
    assert run(engine, "-v", "t-tmp:/t", BUSYBOX, "ls", "/t") == "x\n"
    engine.docker("rm", "-f", "t-a", "t-b")
    assert not mounted_on_host(engine, "t-tmp")
    for name in ("t-tmp", "t-bind"):
        assert engine.api("DELETE", f"/volumes/{name}").status == 204
    assert os.listdir(tmp_path) == ["kept"]
    engine.destroy()


def test_subpath(engine: Engine, volume: Callable[..., str]) -> None:
    chosen = volume()
    script = (
        "mkdir -p /v/sub/deep; echo 1 > /v/sub/file; ln -s /etc /v/out; ln -s sub /v/in;"
        "ln -s ../../../.. /v/up"
    )
    run(engine, "-v", f"{chosen}:/v", BUSYBOX, "sh", "-c", script)

    def look(subpath: str) -> str:
        mount = f"type=volume,source={chosen},target=/m,volume-subpath={subpath}"
        return run(engine, "--mount", mount, BUSYBOX, "find", "/m", "-type", "f", check=False)

    assert look("sub") == "/m/file\n"
    assert look("in") == "/m/file\n"
    assert look("sub/file") == "/m\n"
    for outside in ("out", "up"):
        assert "path concatenation escapes the base directory, base: " in look(outside)
    assert "/_data/nope: lstat /" in look("nope")
    assert "subpath must be a relative path within the volume" in look("../x")


def test_nothing_is_staged_after_a_start(own_engine: OwnEngine, running: Runner) -> None:
    chosen = fresh_name()
    engine = own_engine
    engine.api("POST", "/volumes/create", {"Name": chosen})
    run(engine, "-v", f"{chosen}:/v", BUSYBOX, "mkdir", "/v/sub")

    def mounts() -> set[str]:
        roots = (engine.exec_root, engine.data_root)
        return {path for path in census.mounts() if any(map(Path(path).is_relative_to, roots))}

    before = mounts()
    mount = f"type=volume,source={chosen},target=/m,volume-subpath=sub"
    name = running("--mount", mount, BUSYBOX, "sleep", "1000")
    assert mounts() - before == set()
    engine.docker("rm", "-f", name)
    engine.api("DELETE", f"/volumes/{chosen}")


def test_image_mount(engine: Engine, name: str) -> None:
    mounts = [{"Type": "image", "Source": BUSYBOX, "Target": "/image"}]
    body = {
        "Image": BUSYBOX,
        "Cmd": ["sh", "-c", "ls /image/bin/busybox && touch /image/x"],
        "HostConfig": {"Mounts": mounts},
    }
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
    done = engine.docker("start", "-a", name, check=False)
    assert done.stdout == "/image/bin/busybox\n"
    assert "Read-only file system" in done.stderr
    point = engine.inspect(name)["Mounts"][0]
    assert (point["Type"], point["Name"], point["Destination"]) == ("image", BUSYBOX, "/image")


def test_subpath_of_an_image(engine: Engine, name: str) -> None:
    mounts = [
        {
            "Type": "image",
            "Source": BUSYBOX,
            "Target": "/image",
            "ImageOptions": {"Subpath": "bin"},
        }
    ]
    body = {"Image": BUSYBOX, "Cmd": ["ls", "/image/busybox"], "HostConfig": {"Mounts": mounts}}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
    assert engine.docker("start", "-a", name).stdout == "/image/busybox\n"


def test_volumes_from(engine: Engine, volume: Callable[..., str], name: str) -> None:
    binds = ("-v", f"{volume()}:/a:ro", "-v", "/anonymous", "--tmpfs", "/t")
    engine.docker("create", "--name", name, *binds, BUSYBOX)
    for mode, writable in (("", True), (":ro", False), (":rw", True), (":ro,z", False)):
        other = fresh_name()
        engine.docker("create", "--name", other, "--volumes-from", f"{name}{mode}", BUSYBOX)
        points = {point["Destination"]: point for point in engine.inspect(other)["Mounts"]}
        engine.docker("rm", other)
        assert {path: point["RW"] for path, point in points.items()} == {
            "/a": False,
            "/anonymous": writable,
        }
        assert {point["Mode"] for point in points.values()} == {""}
    body = {"Image": BUSYBOX, "HostConfig": {"VolumesFrom": [f"{name}:zz"]}}
    answer = engine.api("POST", "/containers/create", body)
    assert (answer.status, answer.message) == (400, "invalid mode: zz")


def test_events(engine: Engine, volume: Callable[..., str], name: str) -> None:
    chosen = volume()
    since = time.time()
    run(engine, "--name", name, "-v", f"{chosen}:/d:ro", "-v", "/anonymous", BUSYBOX, "true")
    polling.until(
        lambda: engine.api("GET", f"/containers/{name}/json").status == 404, "the removal"
    )
    seen = [event for event in events(engine, since, "volume") if event[1] == chosen]
    assert [action for action, _, _ in seen] == ["mount", "unmount"]
    container = seen[0][2]["container"]
    assert seen[0][2] == {
        "container": container,
        "destination": "/d",
        "driver": "local",
        "propagation": "",
        "read/write": "false",
    }
    assert seen[1][2] == {"container": container, "driver": "local"}
    order = [
        action
        for action, actor, attributes in events(engine, since, "volume", "container")
        if container in (actor, attributes.get("container"))
    ]
    for earlier, later in (
        ("mount", "start"),
        ("start", "unmount"),
        ("unmount", "die"),
        ("die", "destroy"),
    ):
        assert order.index(earlier) < order.index(later), order


def test_anonymous_volumes_go_with_auto_removal(engine: Engine, name: str) -> None:
    engine.docker("create", "--rm", "--name", name, "-v", "/data", BUSYBOX, "true")
    anonymous = engine.inspect(name)["Mounts"][0]["Name"]
    engine.docker("start", "-a", name)
    polling.until(
        lambda: engine.api("GET", f"/volumes/{anonymous}").status == 404, "the volume to go"
    )


def test_prune(own_engine: OwnEngine, volume: Callable[..., str], name: str) -> None:
    engine = own_engine
    used, named, labelled = volume(), volume(), volume(Labels={"k": "v"})
    anonymous = engine.api("POST", "/volumes/create", {}).json()["Name"]
    engine.docker("create", "--name", name, "-v", f"{used}:/d", BUSYBOX)

    def prune(**wanted: list[str]) -> set[str]:
        answer = engine.api("POST", f"/volumes/prune?{filters(**wanted)}")
        assert answer.status == 200, answer.body
        return set(answer.json()["VolumesDeleted"])

    assert prune(label=["x"]) == set()
    assert prune() == {anonymous}
    assert prune(all=["1"], label=["k=v"]) == {labelled}
    assert prune(all=["true"]) == {named}
    refused = engine.api("POST", f"/volumes/prune?{filters(dangling=['true'])}")
    assert (refused.status, refused.message) == (400, "invalid filter 'dangling'")


def test_list_filters(engine: Engine, volume: Callable[..., str], name: str) -> None:
    used, free = volume(), volume(Labels={"k": "v"})
    engine.docker("create", "--name", name, "-v", f"{used}:/d", BUSYBOX)

    def listed(**wanted: list[str]) -> set[str]:
        answer = engine.api("GET", f"/volumes?{filters(**wanted)}").json()
        return {found["Name"] for found in answer["Volumes"]} & {used, free}

    assert listed(dangling=["true"]) == {free}
    assert listed(dangling=["false"]) == {used}
    assert listed(label=["k"]) == {free}
    assert listed(driver=["local"]) == {used, free}
    assert listed(driver=["other"]) == set()
    assert listed(name=[used]) == {used}
    refused = engine.api("GET", f"/volumes?{filters(dangling=['maybe'])}")
    assert (refused.status, refused.message) == (400, "invalid filter 'dangling=[maybe]'")


def test_usage(engine: Engine, volume: Callable[..., str], name: str) -> None:
    chosen = volume()
    script = "head -c 5000 /dev/zero > /d/f"
    engine.docker("run", "--name", name, "-v", f"{chosen}:/d", BUSYBOX, "sh", "-c", script)
    usage = engine.api("GET", "/system/df?type=volume").json()["Volumes"]
    found = next(item for item in usage if item["Name"] == chosen)
    assert found["UsageData"] == {"Size": 5000, "RefCount": 1}
