"""Other programs read what save and push wrote, and load and pull read what they wrote.

skopeo and umoci always; Docker Engine and Podman where LONGSHORE_ORACLE and LONGSHORE_PODMAN are
their sockets (unix://...). LONGSHORE_PEER_REGISTRY is a registry that they trust, for instance
127.0.0.1:5000, where they do not trust every one on the loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from images.manifest import MANIFESTS
from tests.archives import TOOLS, Layer, busybox_layer, docker_archive, tool
from tests.engine import Engine, fresh_name
from tests.registry import Registry

LAYERS = (
    busybox_layer(),
    Layer().file("removed", "x").file("kept", "kept\n").tar(),
    Layer().file(".wh.removed", "").file("added", "added\n").tar(),
)


def run(*command: str | Path) -> str:
    libraries = ":".join(map(str, TOOLS.glob("usr/lib/*-linux-gnu*")))
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def skopeo(*arguments: str) -> str:
    return run(tool("skopeo", "usr/bin/skopeo"), "--insecure-policy", *arguments)


def umoci(*arguments: str) -> str:
    return run(tool("umoci", "usr/bin/umoci"), *arguments)


@dataclass(frozen=True, slots=True)
class Saved:
    """Two images; ``pulled`` came from a registry, compressed and with Docker's manifest."""

    loaded: str
    pulled: str
    one: Path
    many: Path


@pytest.fixture
def saved(engine: Engine, registry: Registry, tmp_path: Path) -> Iterator[Saved]:
    loaded = f"{fresh_name()}:loaded"
    pulled = f"{registry.address}/{fresh_name()}:pulled"
    archive = docker_archive([loaded, pulled], LAYERS, {"Labels": {"a": "b"}})
    headers = {"Content-Type": "application/x-tar"}
    engine.api("POST", "/images/load?quiet=1", archive, headers)
    engine.docker("push", "-q", pulled)
    engine.docker("rmi", loaded, pulled)
    engine.docker("pull", "-q", pulled)
    other = docker_archive([loaded], [*LAYERS, Layer().file("other", "other\n").tar()])
    engine.api("POST", "/images/load?quiet=1", other, headers)
    found = Saved(loaded, pulled, tmp_path / "one.tar", tmp_path / "many.tar")
    engine.docker("save", "-o", str(found.one), pulled)
    engine.docker("save", "-o", str(found.many), pulled, loaded)
    yield found
    engine.docker("rmi", "-f", loaded, pulled, check=False)


def inspected(engine: Engine, image: str) -> Any:
    return engine.api("GET", f"/images/{image}/json").json()


def check(engine: Engine, image: str, expected: Any) -> None:
    found = inspected(engine, image)
    assert (found["Id"], found["RootFS"]) == (expected["Id"], expected["RootFS"])
    script = "cat /kept /added; ls /removed"
    done = engine.docker("run", "--rm", image, "sh", "-c", script, check=False)
    assert done.stdout == "kept\nadded\n"
    assert "No such file" in done.stderr


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads(engine: Engine, saved: Saved, tmp_path: Path, form: str) -> None:
    shown = json.loads(skopeo("inspect", f"{form}:{saved.one}"))
    assert shown["Labels"] == {"a": "b"}
    assert len(shown["Layers"]) == len(LAYERS)
    for name in (saved.loaded, saved.pulled):
        which = name if form == "docker-archive" else name.rpartition(":")[2]
        out = tmp_path / which.replace("/", "_")
        skopeo("copy", "-q", f"{form}:{saved.many}:{which}", f"dir:{out}")
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["config"]["digest"] == inspected(engine, name)["Id"]
        sizes = [
            (out / one["digest"].partition(":")[2]).stat().st_size for one in manifest["layers"]
        ]
        assert sizes == [one["size"] for one in manifest["layers"]]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_copies_to_a_registry_and_back(
    engine: Engine, registry: Registry, saved: Saved, tmp_path: Path, form: str
) -> None:
    expected = inspected(engine, saved.pulled)
    remote = f"{registry.address}/{fresh_name()}:1"
    skopeo("copy", "-q", "--dest-tls-verify=false", f"{form}:{saved.one}", f"docker://{remote}")
    engine.docker("rmi", saved.loaded, saved.pulled)
    engine.docker("pull", "-q", remote)
    check(engine, remote, expected)
    engine.docker("rmi", remote)
    archive = tmp_path / "copied.tar"
    name = f"{fresh_name()}:1"
    skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{remote}", f"{form}:{archive}:{name}")
    try:
        assert f"Loaded image: {name}" in engine.docker("load", "-i", str(archive)).stdout
        check(engine, name, expected)
    finally:
        engine.docker("rmi", "-f", name, check=False)


def test_umoci_reads(engine: Engine, saved: Saved, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    with tarfile.open(saved.many) as archive:
        archive.extractall(layout, filter="data")
    assert sorted(umoci("ls", "--layout", str(layout)).split()) == ["loaded", "pulled"]
    for tag, layers in (("pulled", len(LAYERS)), ("loaded", len(LAYERS) + 1)):
        history = json.loads(umoci("stat", "--json", "--image", f"{layout}:{tag}"))["history"]
        assert len([entry for entry in history if entry["layer"]]) == layers
        bundle = tmp_path / tag
        umoci("unpack", "--image", f"{layout}:{tag}", str(bundle))
        root = bundle / "rootfs"
        assert (root / "added").read_text() == "added\n"
        assert not (root / "removed").exists()
        assert (root / "other").exists() == (tag == "loaded")


PEERS = {"docker": "LONGSHORE_ORACLE", "podman": "LONGSHORE_PODMAN"}


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    variable = PEERS[request.param]
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Engine(Path(os.environ[variable].removeprefix("unix://")), tmp_path)


@pytest.fixture
def remote(registry: Registry) -> Iterator[str]:
    address = os.environ.get("LONGSHORE_PEER_REGISTRY", registry.address)
    image = f"{address}/{fresh_name()}:1"
    yield image
    ask_registry(image, digest_in_registry(image), method="DELETE")


def digest_in_registry(image: str) -> str:
    return f"sha256:{hashlib.sha256(ask_registry(image, '1')).hexdigest()}"


def ask_registry(image: str, manifest: str, method: str = "GET") -> bytes:
    address, _, rest = image.partition("/")
    url = f"http://{address}/v2/{rest.rpartition(':')[0]}/manifests/{manifest}"
    request = Request(url, headers={"Accept": ", ".join(MANIFESTS)}, method=method)
    with urlopen(request) as answer:
        return bytes(answer.read())


def exchange(source: Engine, target: Engine, image: str) -> None:
    """One pushes, the other pulls and runs; both know it by the registry's digest."""
    try:
        archive = docker_archive([image], LAYERS, {"Cmd": ["cat", "/kept", "/added"]})
        headers = {"Content-Type": "application/x-tar"}
        source.api("POST", "/images/load?quiet=1", archive, headers)
        pushed = re.search(r"1: digest: (\S+)", source.docker("push", image).stdout)
        target.docker("pull", "-q", image)
        expected, found = inspected(source, image), inspected(target, image)
        assert found["Id"].removeprefix("sha256:") == expected["Id"].removeprefix("sha256:")
        assert found["RootFS"]["Layers"] == expected["RootFS"]["Layers"]
        digest = digest_in_registry(image)
        assert f"{image.rpartition(':')[0]}@{digest}" in found["RepoDigests"]
        assert pushed is None or pushed[1] == digest  # Podman does not tell
        ran = target.docker("run", "--rm", "--network", "none", image, timeout=60)
        assert ran.stdout == "kept\nadded\n"
    finally:
        for engine in (source, target):
            engine.docker("rmi", "-f", image, check=False)


def test_peer_runs_what_was_pushed(engine: Engine, peer: Engine, remote: str) -> None:
    exchange(engine, peer, remote)


def test_what_a_peer_pushed_runs(engine: Engine, peer: Engine, remote: str) -> None:
    exchange(peer, engine, remote)


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
def test_archives_between_engines(engine: Engine, peer: Engine, tmp_path: Path, back: bool) -> None:
    source, target = (peer, engine) if back else (engine, peer)
    images = [f"localhost/{fresh_name()}:{number}" for number in range(2)]
    saved = tmp_path / "saved.tar"
    headers = {"Content-Type": "application/x-tar"}
    try:
        for number, image in enumerate(images):
            layers = [*LAYERS, Layer().file("number", str(number)).tar()]
            source.api("POST", "/images/load?quiet=1", docker_archive([image], layers), headers)
        source.docker("save", "-o", str(saved), *images)
        target.docker("load", "-i", str(saved))
        for image in images:
            ids = {inspected(one, image)["Id"].removeprefix("sha256:") for one in (source, target)}
            assert len(ids) == 1
    finally:
        for one in (source, target):
            one.docker("rmi", "-f", *images, check=False)
