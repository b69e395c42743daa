"""docker commit, and new volumes that take the image's content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, fresh_name

Runner = Callable[..., str]
CHANGES = ('CMD ["ls", "-l"]', "ENV B=2 C=3", "EXPOSE 99", "LABEL x=y", "WORKDIR /w", "USER 5")


@pytest.fixture
def image(engine: Engine) -> Iterator[str]:
    """A name for an image, which is removed afterwards."""
    chosen = f"{fresh_name()}:1"
    yield chosen
    engine.api("DELETE", f"/images/{chosen}?force=1")


def inspect_image(engine: Engine, name: str) -> Any:
    answer = engine.api("GET", f"/images/{name}/json")
    assert answer.status == 200, answer.body
    return answer.json()


def run(engine: Engine, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments).stdout


def test_changes_of_the_files(engine: Engine, name: str, image: str) -> None:
    script = (
        "echo new > /new; rm /etc/group; rm -r /home; mkdir /home; touch /home/x; ln /new /same; "
        "mkfifo /pipe; chown 3:4 /new; chmod 2755 /new"
    )
    engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", script)
    engine.docker("commit", name, image)
    check = (
        "cat /new; stat -c '%a %u:%g %h' /same; ls /home; [ -p /pipe ] && ls /etc; "
        "[ -e /dev/null ] && echo $?"
    )
    lines = run(engine, image, "sh", "-c", check).split()
    assert lines[:6] == ["new", "2755", "3:4", "2", "x", "hostname"]
    assert "group" not in lines


def test_configuration(engine: Engine, running: Runner, image: str) -> None:
    name = running(
        *("-e", "A=1", "-l", "a=b", "-w", "/tmp", "--stop-signal", "INT", "--expose", "80"),
        *(BUSYBOX, "sleep", "1000"),
    )
    options = [item for change in CHANGES for item in ("-c", change)]
    done = engine.docker("commit", "-a", "me <m@x>", "-m", "why", *options, name, image)
    found = inspect_image(engine, image)
    assert found["Id"] == done.stdout.strip()
    assert (found["Author"], found["Comment"]) == ("me <m@x>", "why")
    assert found["Parent"] == engine.inspect(name)["Image"]
    config = found["Config"]
    assert config["Cmd"] == ["ls", "-l"]
    assert [entry for entry in config["Env"] if entry[:4] != "PATH"] == ["A=1", "B=2", "C=3"]
    assert set(config["ExposedPorts"]) == {"80/tcp", "99/tcp"}
    assert config["Labels"] == {"a": "b", "x": "y"}
    assert (config["WorkingDir"], config["User"], config["StopSignal"]) == ("/w", "5", "INT")
    layers = inspect_image(engine, BUSYBOX)["RootFS"]["Layers"]
    assert found["RootFS"]["Layers"][:-1] == layers
    newest = engine.api("GET", f"/images/{image}/history").json()[0]
    assert (newest["CreatedBy"], newest["Comment"]) == ("sleep 1000", "why")


def test_body_replaces_and_is_completed(engine: Engine, name: str, image: str) -> None:
    engine.docker("create", "--name", name, "-e", "A=1", "-l", "a=b", BUSYBOX, "true")
    body = {"Cmd": ["zz"], "Env": ["Q=1"], "Labels": {"only": "this"}}
    repository, tag = image.split(":")
    target = f"/commit?container={name}&repo={repository}&tag={tag}&comment=c&author=a"
    answer = engine.api("POST", target, body)
    assert answer.status == 201
    config = inspect_image(engine, answer.json()["Id"])["Config"]
    assert config["Cmd"] == ["zz"]
    assert [entry for entry in config["Env"] if entry[:4] != "PATH"] == ["Q=1", "A=1"]
    assert config["Labels"] == {"a": "b", "only": "this"}


def test_events_and_pause(engine: Engine, running: Runner, image: str) -> None:
    name = running(BUSYBOX, "sleep", "1000")
    with_pause = _actions(engine, name, lambda: engine.docker("commit", name, image))
    assert with_pause == [
        "container pause",
        "image create",
        "image tag",
        "container commit",
        "container unpause",
    ]
    assert engine.status(name) == "running"
    target = f"/commit?container={name}&pause=0"
    without = _actions(engine, name, lambda: engine.api("POST", target))
    assert without == ["image create", "container commit"]
    engine.docker("image", "prune", "-f")


def _actions(engine: Engine, container: str, action: Callable[[], object]) -> list[str]:
    """What is told of images, and of this container: others' ends may be told late."""
    since = engine.api("GET", "/info").json()["SystemTime"]
    action()
    until = engine.api("GET", "/info").json()["SystemTime"]
    listing = engine.docker(
        *("events", "--since", since, "--until", until, "--format", "{{json .}}"),
    )
    events = [json.loads(line) for line in listing.stdout.splitlines()]
    return [
        f"{event['Type']} {event['Action']}"
        for event in events
        if event["Type"] == "image" or event["Actor"]["Attributes"].get("name") == container
    ]


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("container=nope", 404, "No such container: nope"),
        ("container=", 400, 'invalid name or ID supplied: ""'),
        ("container={}&changes=RUN+x", 400, "RUN is not a valid change command"),
        (
            "container={}&repo=sha256&tag=12",
            400,
            "refusing to create an ambiguous tag using digest algorithm as name",
        ),
    ],
)
def test_errors(engine: Engine, name: str, query: str, status: int, message: str) -> None:
    engine.docker("create", "--name", name, BUSYBOX, "true")
    answer = engine.api("POST", "/commit?" + query.format(name))
    assert (answer.status, answer.message) == (status, message)


def test_commit_while_the_container_ends(engine: Engine, name: str) -> None:
    for _ in range(5):
        engine.docker("create", "--name", name, BUSYBOX, "touch", "/x")
        engine.api("POST", f"/containers/{name}/start")
        answer = engine.api("POST", f"/commit?container={name}")
        assert answer.status == 201, answer.body
        polling.until(lambda: engine.status(name) == "exited", "the container to end")
        engine.docker("rm", name)
        engine.docker("rmi", answer.json()["Id"])


@pytest.fixture
def filled(engine: Engine, name: str) -> Iterator[str]:
    """An image with a directory of everything, an empty one of its own owner, and links to both."""
    script = (
        "mkdir -p /data/sub /empty /opt/deep; echo a > /data/f; ln /data/f /data/g; "
        "ln -s f /data/l; mkfifo /data/p; chown -R 7:8 /data; chmod 1770 /data; "
        "chown 9:9 /empty; chmod 700 /empty; ln -s /data /dl; rm -r /usr; mkdir -p /usr/bin"
    )
    image = fresh_name()
    engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", script)
    engine.docker("commit", name, image)
    yield image
    engine.api("DELETE", f"/containers/{name}?force=1")
    engine.api("DELETE", f"/images/{image}?force=1")


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    chosen = fresh_name()
    yield chosen
    engine.api("DELETE", f"/volumes/{chosen}")


def test_volumes_take_the_content(engine: Engine, filled: str) -> None:
    volumes = [
        item for path in ("/data", "/empty", "/dl", "/none", "/usr") for item in ("-v", path)
    ]
    script = (
        "stat -c '%n %a %u:%g %h' /data /data/f /data/g /empty /dl/f /none; "
        "readlink /data/l; [ -p /data/p ] && ls -d /usr/*"
    )
    assert run(engine, *volumes, filled, "sh", "-c", script).splitlines() == [
        "/data 1770 7:8 3",
        "/data/f 644 7:8 2",
        "/data/g 644 7:8 2",
        "/empty 700 9:9 2",
        "/dl/f 644 7:8 2",
        "/none 755 0:0 2",
        "f",
        "/usr/bin",
    ]


def test_volume_has_it_before_the_first_start(
    engine: Engine, filled: str, volume: str, name: str
) -> None:
    engine.docker("rm", name)
    engine.docker("create", "--name", name, "-v", f"{volume}:/data", filled, "true")
    listing = run(engine, "-v", f"{volume}:/v", BUSYBOX, "ls", "/v").split()
    engine.docker("rm", name)
    assert listing == ["f", "g", "l", "p", "sub"]


def test_a_used_volume_is_left_alone(engine: Engine, filled: str, volume: str) -> None:
    run(engine, "-v", f"{volume}:/v", BUSYBOX, "touch", "/v/mine")
    assert run(engine, "-v", f"{volume}:/data", filled, "ls", "/data").split() == ["mine"]


@pytest.mark.parametrize(
    "option", ["-v={}:/data:nocopy", "--mount=type=volume,src={},dst=/data,volume-nocopy"]
)
def test_nocopy(engine: Engine, filled: str, volume: str, option: str) -> None:
    script = "ls -a /data; stat -c %a /data"
    found = run(engine, option.format(volume), filled, "sh", "-c", script).split()
    assert found == [".", "..", "755"]


def test_many_at_once_fill_it_once(engine: Engine, filled: str, volume: str) -> None:
    started = [
        engine.spawn("run", "--rm", "-v", f"{volume}:/data", filled, "ls", "/data")
        for _ in range(6)
    ]
    outputs = {process.communicate(timeout=30)[0] for process in started}
    assert outputs == {b"f\ng\nl\np\nsub\n"}
