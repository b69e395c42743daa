"""pull, push, images, load, save, import, tag, inspect and rmi, with a real registry."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zstandard

from tests import polling
from tests.archives import Layer, busybox_layer, docker_archive, oci_layout
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.registry import Registry

TAR = {"Content-Type": "application/x-tar"}
ANYBODY = {"X-Registry-Auth": "e30="}


@pytest.fixture
def tag(engine: Engine) -> Iterator[str]:
    """A name for an image, which is removed afterwards if it exists."""
    chosen = f"{fresh_name()}:1"
    yield chosen
    engine.api("DELETE", f"/images/{chosen}?force=1")


@pytest.fixture
def remote(engine: Engine, registry: Registry) -> Iterator[str]:
    """A name in the registry with busybox under it, which the engine does not have."""
    chosen = f"{registry.address}/{fresh_name()}:1"
    engine.docker("tag", BUSYBOX, chosen)
    engine.docker("push", "-q", chosen)
    engine.docker("rmi", chosen)
    yield chosen
    engine.api("DELETE", f"/images/{chosen}?force=1")


def load(engine: Engine, archive: bytes) -> list[Any]:
    answer = engine.api("POST", "/images/load?quiet=1", archive, TAR)
    assert answer.status == 200, answer.body
    return answer.objects()


def inspect(engine: Engine, image: str) -> Any:
    answer = engine.api("GET", f"/images/{image}/json")
    assert answer.status == 200, answer.body
    return answer.json()


def test_load(engine: Engine, tag: str) -> None:
    archive = docker_archive([tag], [Layer().file("hello", "x\n").tar()], {"Labels": {"a": "b"}})
    assert load(engine, archive) == [{"stream": f"Loaded image: {tag}\n"}]
    found = inspect(engine, tag)
    assert found["RepoTags"] == [tag]
    assert found["Config"]["Labels"] == {"a": "b"}
    assert found["Config"]["Cmd"] == ["sh"]
    assert (found["Os"], found["Architecture"]) == ("linux", "amd64")
    assert found["Created"] == "2024-05-06T07:08:09Z"
    assert len(found["RootFS"]["Layers"]) == 1


def test_docker_load(engine: Engine, tag: str) -> None:
    archive = docker_archive([tag], [busybox_layer()])
    done = subprocess.run(
        [engine.cli, "load"], input=archive, env=engine.env, capture_output=True, check=True
    )
    assert done.stdout.decode() == f"Loaded image: {tag}\n"
    assert engine.docker("run", "--rm", tag, "echo", "x").stdout == "x\n"


def test_progress_of_a_load_only_if_asked_for(engine: Engine, tag: str) -> None:
    last = {"stream": f"Loaded image: {tag}\n"}
    for number, query in enumerate(("", "?quiet=0")):
        content = f"{tag} {number}"
        archive = docker_archive([tag], [Layer().file("hello", content).tar()])
        lines = engine.api("POST", f"/images/load{query}", archive, TAR).objects()
        assert lines[-1] == last
        assert ("Loading layer" in str(lines)) == bool(query)
        engine.docker("rmi", tag)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_load_of_a_compressed_archive(engine: Engine, tag: str, compress: Any) -> None:
    archive = docker_archive([tag], [Layer().file("hello", "x\n").tar()])
    assert load(engine, compress(archive)) == [{"stream": f"Loaded image: {tag}\n"}]


def test_load_of_an_oci_layout(engine: Engine, tag: str) -> None:
    load(engine, oci_layout(tag, [busybox_layer(), Layer().file("hello", "x\n").tar()]))
    assert engine.docker("run", "--rm", tag, "cat", "/hello").stdout == "x\n"


def test_layers_over_each_other(engine: Engine, tag: str) -> None:
    lower = Layer().directory("d").file("d/old", "1").file("d/gone", "1").directory("opaque")
    lower.file("opaque/below", "1").file("changed", "1").symlink("link", "changed")
    upper = Layer().file("d/.wh.gone", "").file("opaque/.wh..wh..opq", "").file("opaque/above", "2")
    upper.file("changed", "2").hardlink("hard", "changed")
    load(engine, docker_archive([tag], [busybox_layer(), lower.tar(), upper.tar()]))
    script = "ls /d /opaque; cat /changed /link /hard"
    shown = engine.docker("run", "--rm", tag, "sh", "-c", script).stdout
    assert shown == "/d:\nold\n\n/opaque:\nabove\n222"


HOSTILE = [
    Layer().file("../escaped", "x"),
    Layer().symlink("out", "/tmp").file("out/escaped", "x"),
    Layer().symlink("up", "../../../../../../../tmp").file("up/escaped", "x"),
]


@pytest.mark.parametrize("layer", HOSTILE, ids=["dots", "absolute link", "relative link"])
def test_hostile_layers_stay_inside(
    engine: Engine, own_engine: OwnEngine, tag: str, layer: Layer
) -> None:
    archive = docker_archive([tag], [layer.tar()])
    engine.api("POST", "/images/load?quiet=1", archive, TAR)
    # os.walk does not mind what the engine is just removing.
    found = [where for where, _, names in os.walk(own_engine.base) if "escaped" in names]
    inside = own_engine.data_root / "snapshots"
    assert [where for where in found if not Path(where).is_relative_to(inside)] == []


def test_import(engine: Engine, tag: str) -> None:
    done = subprocess.run(
        [engine.cli, "import", "-c", 'CMD ["cat","/hello"]', "-c", "ENV A=1", "-", tag],
        input=Layer().file("hello", "x\n").tar(),
        env=engine.env,
        capture_output=True,
        check=True,
    )
    identifier = done.stdout.decode().strip()
    assert re.fullmatch("sha256:[0-9a-f]{64}", identifier)
    found = inspect(engine, tag)
    assert (found["Id"], found["Config"]["Cmd"]) == (identifier, ["cat", "/hello"])
    assert found["Config"]["Env"] == ["A=1"]


def test_save_and_load_again(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [Layer().file("hello", "x\n").tar()]))
    identifier = inspect(engine, tag)["Id"]
    saved = engine.api("GET", f"/images/{tag}/get")
    assert (saved.status, saved.headers["content-type"]) == (200, "application/x-tar")
    assert engine.api("DELETE", f"/images/{tag}").status == 200
    assert load(engine, saved.body) == [{"stream": f"Loaded image: {tag}\n"}]
    assert inspect(engine, tag)["Id"] == identifier


def test_save_of_a_repository(engine: Engine, tag: str) -> None:
    """All its tags, of which none need be latest."""
    load(engine, docker_archive([tag], [Layer().file("hello", "all").tar()]))
    repository = tag.partition(":")[0]
    engine.docker("tag", tag, f"{repository}:2")
    saved = engine.api("GET", f"/images/{repository}/get")
    assert saved.status == 200
    engine.docker("rmi", tag, f"{repository}:2")
    lines = load(engine, saved.body)
    assert lines == [{"stream": f"Loaded image: {repository}:{number}\n"} for number in (1, 2)]
    engine.docker("rmi", f"{repository}:2")
    missing = engine.api("GET", f"/images/{repository}:3/get")
    assert (missing.status, missing.message) == (404, "reference does not exist")


def test_other_platform(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [Layer().file("hello", "platform").tar()]))
    other = quote(json.dumps({"os": "linux", "architecture": "arm64"}))
    text = (
        f"image with reference {tag} was found but its platform (linux/amd64)"
        " does not match the specified platform (linux/arm64)"
    )
    for method, target in (
        ("GET", f"/images/{tag}/json?platform={other}"),
        ("GET", f"/images/{tag}/history?platform={other}"),
        ("DELETE", f"/images/{tag}?platforms={other}"),
    ):
        answer = engine.api(method, target)
        assert (answer.status, answer.message) == (404, text)
    # A newer CPU runs the image, but what is saved is the platform that was asked for.
    newer = quote(json.dumps({"os": "linux", "architecture": "amd64", "variant": "v3"}))
    assert engine.api("GET", f"/images/{tag}/json?platform={newer}").status == 200
    for platform, shown in ((other, "linux/arm64"), (newer, "linux/amd64/v3")):
        answer = engine.api("GET", f"/images/{tag}/get?platform={platform}")
        assert (answer.status, answer.message) == (
            500,
            f"no suitable export target found for platform {shown}",
        )
    for target, text in (
        (
            f"/images/{tag}/json?manifests=1&platform={newer}",
            "conflicting options: manifests and platform options cannot both be set",
        ),
        (
            f"/images/{tag}/json?platform={quote(json.dumps({'variant': 'v3'}))}",
            "optional platform fields provided, but OS and Architecture are missing",
        ),
        (
            f"/images/{tag}/get?platform={other}&platform={newer}",
            "multiple platform parameters not supported",
        ),
    ):
        answer = engine.api("GET", target)
        assert (answer.status, answer.message) == (400, text)


def test_distribution(engine: Engine, remote: str) -> None:
    found = engine.api("GET", f"/distribution/{remote}/json").json()
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert re.fullmatch("sha256:[0-9a-f]{64}", found["Descriptor"]["digest"])
    missing = engine.api("GET", f"/distribution/{remote}x/json")
    assert (missing.status, missing.message) == (404, "manifest unknown: manifest unknown")


def test_login(engine: Engine, registry: Registry) -> None:
    auth = {"username": "u", "password": "p", "serveraddress": registry.address}
    answer = engine.api("POST", "/auth", auth)
    assert answer.json() == {"IdentityToken": "", "Status": "Login Succeeded"}


def test_list(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [Layer().file("hello", "x" * 1000).tar()]))
    listed = [i for i in engine.api("GET", "/images/json").json() if tag in (i["RepoTags"] or [])]
    assert len(listed) == 1
    assert listed[0]["Id"] == inspect(engine, tag)["Id"]
    assert listed[0]["Size"] >= 1000
    assert listed[0]["Created"] == 1714979289
    row = engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}", tag.split(":")[0]).stdout
    assert row == f"{tag}\n"


def test_tag_and_untag(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [Layer().file("hello", "tagged").tar()]))
    other = f"{fresh_name()}:2"
    engine.docker("tag", tag, other)
    assert sorted(inspect(engine, tag)["RepoTags"]) == sorted([tag, other])
    assert engine.docker("rmi", other).stdout == f"Untagged: {other}\n"
    removed = engine.api("DELETE", f"/images/{tag}").json()
    assert removed[0] == {"Untagged": tag}
    assert [next(iter(entry)) for entry in removed[1:]] == ["Deleted"] * (len(removed) - 1)
    assert len(removed) > 1


def test_rmi_of_an_image_in_use(engine: Engine, tag: str, name: str) -> None:
    load(engine, docker_archive([tag], [busybox_layer(), Layer().file("used", "x").tar()]))
    engine.docker("run", "-d", "--name", name, tag, "sleep", "100")
    answer = engine.api("DELETE", f"/images/{tag}")
    short = engine.inspect(name)["Id"][:12]
    assert (answer.status, answer.message) == (
        409,
        f'conflict: unable to remove repository reference "{tag}" (must force) - '
        f"container {short} is using its referenced image "
        f"{inspect(engine, tag)['Id'].removeprefix('sha256:')[:12]}",
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sha256&tag=1", "refusing to create an ambiguous tag using digest algorithm as name"),
        (
            f"{'a' * 64}&tag=1",
            f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
        ),
        ("x&tag=a+b", "invalid tag format"),
        (f"x@sha256:{'0' * 64}", "cannot import digest reference"),
    ],
)
def test_names_that_no_image_gets(engine: Engine, target: str, message: str) -> None:
    answer = engine.api("POST", f"/images/{BUSYBOX}/tag?repo={target}")
    assert (answer.status, answer.message) == (400, message)


def test_push_of_an_unknown_tag(engine: Engine, registry: Registry) -> None:
    name = f"{registry.address}/{fresh_name()}"
    text = f"An image does not exist locally with the tag: {name}"
    for expected in (text, f"tag does not exist: {name}:nope"):
        lines = engine.api("POST", f"/images/{name}/push?tag=nope", None, ANYBODY).objects()
        assert lines[-1]["error"] == expected
        engine.docker("tag", BUSYBOX, f"{name}:1")
    engine.docker("rmi", f"{name}:1")


def test_reference_by_id(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [busybox_layer(), Layer().file("by-id", "x").tar()]))
    identifier = inspect(engine, tag)["Id"]
    short = identifier.removeprefix("sha256:")[:12]
    assert inspect(engine, short)["Id"] == inspect(engine, identifier)["Id"] == identifier
    assert engine.docker("run", "--rm", short, "cat", "/by-id").stdout == "x"


def test_push_and_pull(engine: Engine, remote: str) -> None:
    pulled = engine.docker("pull", remote)
    assert f"Status: Downloaded newer image for {remote}" in pulled.stdout
    assert re.search("Digest: sha256:[0-9a-f]{64}", pulled.stdout)
    assert engine.docker("run", "--rm", remote, "echo", "x").stdout == "x\n"
    found = inspect(engine, remote)
    assert found["Id"] == inspect(engine, BUSYBOX)["Id"]
    assert found["RepoDigests"]
    again = engine.docker("pull", remote)
    assert f"Status: Image is up to date for {remote}" in again.stdout


def test_pull_by_digest(engine: Engine, remote: str) -> None:
    digest = re.search("sha256:[0-9a-f]{64}", engine.docker("pull", remote).stdout)
    assert digest
    repository = remote.rpartition(":")[0]
    engine.docker("rmi", remote)
    engine.docker("pull", f"{repository}@{digest[0]}")
    assert (
        f"{repository}@{digest[0]}" in inspect(engine, f"{repository}@{digest[0]}")["RepoDigests"]
    )
    engine.docker("rmi", f"{repository}@{digest[0]}")


def test_run_pulls_what_is_missing(engine: Engine, remote: str) -> None:
    done = engine.docker("run", "--rm", remote, "echo", "x")
    assert done.stdout == "x\n"
    assert f"Unable to find image '{remote}' locally" in done.stderr


def test_pull_progress(engine: Engine, registry: Registry, tag: str) -> None:
    """A layer that no image here has: the lines of a download and an extraction."""
    remote = f"{registry.address}/{tag}"
    load(engine, docker_archive([remote], [Layer().file(tag, tag * 1000).tar()]))
    engine.docker("push", "-q", remote)
    engine.docker("rmi", remote)
    repository, _, version = remote.rpartition(":")
    answer = engine.api("POST", f"/images/create?fromImage={repository}&tag={version}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["transfer-encoding"] == "chunked"
    lines = answer.objects()
    name = repository.partition("/")[2]
    assert lines[0] == {"status": f"Pulling from {name}", "id": version}
    layer = [line["status"] for line in lines if re.fullmatch("[0-9a-f]{12}", line.get("id", ""))]
    assert layer[0] == "Pulling fs layer"
    assert "Download complete" in layer
    assert layer[-1] == "Pull complete"
    assert re.fullmatch("Digest: sha256:[0-9a-f]{64}", lines[-2]["status"])
    assert lines[-1] == {"status": f"Status: Downloaded newer image for {remote}"}
    engine.docker("rmi", remote)


def test_push_progress(engine: Engine, registry: Registry) -> None:
    remote = f"{registry.address}/{fresh_name()}"
    engine.docker("tag", BUSYBOX, f"{remote}:1")
    answer = engine.api("POST", f"/images/{remote}/push?tag=1", None, ANYBODY)
    engine.docker("rmi", f"{remote}:1")
    lines = answer.objects()
    assert lines[0] == {"status": f"The push refers to repository [{remote}]"}
    assert "error" not in json.dumps(lines)
    assert re.fullmatch("1: digest: sha256:[0-9a-f]{64} size: [0-9]+", lines[-2]["status"])
    assert lines[-1]["aux"]["Tag"] == "1"


def test_pull_of_an_unknown_tag(engine: Engine, remote: str) -> None:
    repository = remote.rpartition(":")[0]
    answer = engine.api("POST", f"/images/create?fromImage={repository}&tag=nope")
    assert (answer.status, answer.message) == (
        404,
        f"manifest for {repository}:nope not found: manifest unknown: manifest unknown",
    )


def test_pull_from_a_mirror(engine: Engine, own_engine: OwnEngine, registry: Registry) -> None:
    name = fresh_name()
    inside = f"{registry.address}/library/{name}:1"
    engine.docker("tag", BUSYBOX, inside)
    engine.docker("push", "-q", inside)
    engine.docker("rmi", inside)
    engine.docker("pull", f"{name}:1")
    assert inspect(engine, f"{name}:1")["RepoTags"]
    engine.docker("rmi", f"{name}:1")


def test_ten_pulls_at_once(engine: Engine, registry: Registry) -> None:
    """Each blob is downloaded once."""
    layers = [Layer().file(f"{number}", os.urandom(1 << 20)).tar() for number in range(3)]
    name = f"{fresh_name()}:1"
    remote = registry.put(name, layers, [gzip.compress(layer, 1) for layer in layers])
    clients = [engine.spawn("pull", remote) for _ in range(10)]
    for client in clients:
        _, errors = client.communicate(timeout=30)
        assert client.returncode == 0, errors
    engine.docker("rmi", remote)
    # The registry writes its log after it has sent a blob.
    polling.until(lambda: len(registry.downloads(name)) == 4, "the last download to be logged")
    assert set(registry.downloads(name).values()) == {1}


def test_history(engine: Engine, tag: str) -> None:
    load(engine, docker_archive([tag], [busybox_layer(), Layer().file("h", "x").tar()]))
    answer = engine.api("GET", f"/images/{tag}/history")
    assert [entry["CreatedBy"] for entry in answer.json()] == ["test", "test"]
