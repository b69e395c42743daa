"""The same paths through docker-py."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import docker.errors
import pytest

from tests import polling
from tests.archives import Layer, busybox_layer, docker_archive
from tests.engine import BUSYBOX, Engine, fresh_name

# docker-py leaves the sockets of its streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Have it collect them while this file's tests are to blame."""
    yield
    gc.collect()


@pytest.fixture
def client(engine: Engine) -> Any:
    return engine.client


@pytest.fixture
def box(client: Any) -> Iterator[Any]:
    container = client.containers.run(
        BUSYBOX, ["sleep", "1000"], name=fresh_name(), detach=True, environment={"A": "1"}
    )
    yield container
    container.remove(force=True)


def test_run(client: Any) -> None:
    assert client.containers.run(BUSYBOX, ["echo", "x"], name=fresh_name(), remove=True) == b"x\n"


def test_run_that_fails(client: Any) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run(
            BUSYBOX, ["sh", "-c", "echo bad >&2; exit 3"], name=fresh_name(), remove=True
        )
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"bad\n")


def test_missing_image(client: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("nope-image:1")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nope")


def test_life(client: Any) -> None:
    container = client.containers.create(BUSYBOX, ["sleep", "1000"], name=fresh_name())
    try:
        assert container.status == "created"
        container.start()
        container.reload()
        assert container.status == "running"
        assert container in client.containers.list()
        container.pause()
        container.unpause()
        container.restart(timeout=0)
        container.stop(timeout=0)
        assert container.wait()["StatusCode"] == 137
        container.rename(fresh_name())
    finally:
        container.remove(force=True)
    with pytest.raises(docker.errors.NotFound):
        client.containers.get(container.id)


@pytest.fixture
def after_head(
    engine: Engine, client: Any, box: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[str]]:
    """Makes a command of the box begin when docker-py has read the head of the answer.

    What it reads together with the head it loses, which a machine under load makes happen.
    """
    read = client.api._read_from_socket

    def begin(*arguments: Any, **options: Any) -> Any:
        engine.docker("exec", box.name, "touch", "/go")
        return read(*arguments, **options)

    monkeypatch.setattr(client.api, "_read_from_socket", begin)
    wait = "until [ -e /go ]; do sleep 0.01; done; rm /go"
    return lambda script: ["sh", "-c", f"{wait}; {script}"]


def test_exec(box: Any, after_head: Callable[[str], list[str]]) -> None:
    done = box.exec_run(after_head("echo $A; exit 4"))
    assert (done.exit_code, done.output) == (4, b"1\n")
    done = box.exec_run(after_head("echo out; echo err >&2"), demux=True)
    assert done.output == (b"out\n", b"err\n")
    stream = box.exec_run(after_head("seq 1000"), stream=True).output
    assert b"".join(stream).count(b"\n") == 1000


def test_exec_with_stdin(client: Any, box: Any) -> None:
    exec_id = client.api.exec_create(box.id, ["head", "-n", "1"], stdin=True)["Id"]
    sock = client.api.exec_start(exec_id, socket=True)
    try:
        sock._sock.sendall(b"typed\n")
        data = b""
        while more := sock._sock.recv(4096):
            data += more
    finally:
        sock._sock.close()
        sock.close()
    assert data.endswith(b"typed\n")
    assert client.api.exec_inspect(exec_id)["ExitCode"] == 0


def test_logs(client: Any) -> None:
    container = client.containers.run(BUSYBOX, ["seq", "5"], name=fresh_name(), detach=True)
    try:
        container.wait()
        assert container.logs() == b"1\n2\n3\n4\n5\n"
        assert container.logs(tail=2) == b"4\n5\n"
        assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n4\n5\n"
    finally:
        container.remove(force=True)


def test_attach(client: Any) -> None:
    container = client.containers.create(BUSYBOX, ["seq", "3"], name=fresh_name())
    try:
        stream = container.attach(stream=True, logs=False)
        container.start()
        assert b"".join(stream) == b"1\n2\n3\n"
    finally:
        container.remove(force=True)


def test_images(client: Any) -> None:
    tag = f"{fresh_name()}:1"
    archive = docker_archive([tag], [busybox_layer(), Layer().file("x", "x").tar()])
    (image,) = client.images.load(archive)
    assert image.tags == [tag]
    assert tag in [name for image in client.images.list() for name in image.tags]
    assert image.tag(tag.replace(":1", ":2"))
    client.images.remove(tag.replace(":1", ":2"))
    client.images.remove(tag)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get(tag)


def test_import(client: Any) -> None:
    tag = fresh_name()
    client.api.import_image(io.BytesIO(Layer().file("x", "x").tar()), repository=tag, tag="1")
    client.images.remove(f"{tag}:1")


def test_ports_and_networks(client: Any) -> None:
    container = client.containers.run(
        BUSYBOX, ["sleep", "100"], name=fresh_name(), detach=True, ports={"80/tcp": None}
    )
    try:
        polling.until(lambda: (container.reload(), container.ports)[1], "the port")
        assert container.ports["80/tcp"][0]["HostPort"]
        assert "bridge" in [network.name for network in client.networks.list()]
    finally:
        container.remove(force=True)


def test_only_the_networks_that_are_named(client: Any) -> None:
    name = fresh_name()
    network = client.networks.create(name)
    config = {name: client.api.create_endpoint_config(aliases=["al"])}
    made = client.api.create_container(
        *(BUSYBOX, ["sleep", "100"]),
        name=fresh_name(),
        hostname="box",
        networking_config=client.api.create_networking_config(config),
    )
    container = client.containers.get(made["Id"])
    try:
        container.start()
        container.reload()
        networks = container.attrs["NetworkSettings"]["Networks"]
        assert list(networks) == [name]
        assert networks[name]["DNSNames"] == [container.name, "al", container.short_id, "box"]
        assert container.exec_run(["nslookup", "box"]).exit_code == 0
    finally:
        container.remove(force=True)
        network.remove()


def test_top_and_stats(box: Any) -> None:
    assert any("sleep 1000" in " ".join(row) for row in box.top()["Processes"])
    stats = box.stats(stream=False)
    assert stats["pids_stats"]["current"] == 1
    assert stats["memory_stats"]["usage"] > 0
