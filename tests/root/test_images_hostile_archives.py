"""``docker load`` of archives whose manifests lie: a clear error, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import EngineError
from images.service import ImageService
from tests.archives import Layer, docker_archive, image_config
from tests.root.images_lab import leftovers, load, service

LAYER = Layer().file("hello", "x").tar()
OCI = "application/vnd.oci.image"


def archive(
    manifest: Any, config: bytes | None = None, files: Callable[[Layer], object] = lambda _a: None
) -> bytes:
    """A Docker archive of one layer, with a manifest of the test's."""
    built = Layer().file("layer.tar", LAYER)
    built.file("config.json", image_config([LAYER], {}) if config is None else config)
    files(built)
    return built.file("manifest.json", json.dumps(manifest)).tar()


def item(**members: Any) -> list[dict[str, Any]]:
    return [{"Config": "config.json", "RepoTags": ["lab:1"], "Layers": ["layer.tar"], **members}]


def config(**members: Any) -> bytes:
    return json.dumps({**json.loads(image_config([LAYER], {})), **members}).encode()


def rootfs(*diff_ids: str) -> bytes:
    return config(rootfs={"type": "layers", "diff_ids": list(diff_ids)})


def oci(change: Callable[[dict[str, Any]], object]) -> bytes:
    """An OCI layout whose manifest was changed after it was made."""
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    document = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob("config.v1+json", image_config([LAYER], {})),
        "layers": [blob("layer.v1.tar", LAYER)],
    }
    change(document)
    entry = blob("manifest.v1+json", json.dumps(document).encode())
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]}
    built = Layer().file("index.json", json.dumps(index))
    for digest, content in blobs.items():
        built.file(f"blobs/sha256/{digest}", content)
    return built.tar()


def swapped(data: bytes) -> bytes:
    """The layout with its largest blob's content changed but not its name."""
    return data.replace(b"hello", b"hullo")


OTHER = "sha256:" + "0" * 64
WHOLE = docker_archive(["lab:1"], [LAYER])

ARCHIVES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "neither manifest.json nor index.json"),
    "not a tar": (b"x" * 4096, "invalid tar header|corrupt"),
    "cut off": (WHOLE[:1300], "unexpected EOF"),
    "cut off gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abc", "(?i)corrupt|unexpected EOF"),
    "no manifest": (Layer().file("x", "y").tar(), "neither manifest.json nor index.json"),
    "manifest no JSON": (Layer().file("manifest.json", "{").tar(), "invalid manifest.json"),
    "manifest of strings": (archive(["x"]), "not an object"),
    "manifest an object": (archive({"a": 1}), "not of type list|invalid"),
    "deep JSON": (Layer().file("manifest.json", "[" * 200_000).tar(), "invalid manifest.json"),
    "config outside": (archive(item(Config="../../../etc/passwd")), "has no file"),
    "config absolute": (archive(item(Config="/etc/passwd")), "has no file"),
    "config a number": (archive(item(Config=1)), "not of type str"),
    "config through a link": (
        archive(item(Config="link"), files=lambda a: a.symlink("link", "/etc/passwd")),
        "has no file",
    ),
    "config in a loop": (
        archive(item(Config="a"), files=lambda a: a.symlink("a", "b").symlink("b", "a")),
        "has no file",
    ),
    "config a hard link": (
        archive(item(Config="link"), files=lambda a: a.hardlink("link", "/etc/passwd")),
        "has no file",
    ),
    "layer missing": (archive(item(Layers=["nope"])), "has no file"),
    "layer outside": (archive(item(Layers=["../../../../etc/shadow"])), "has no file"),
    "too few layers": (archive(item(Layers=[])), "layers length mismatch: expected 1, got 0"),
    "too many layers": (archive(item(Layers=["layer.tar"] * 2)), "layers length mismatch"),
    "wrong diff id": (archive(item(), rootfs(OTHER)), "layer has digest"),
    "diff id a path": (archive(item(), rootfs("sha256:../../../x")), "diff id"),
    "diff id of nothing": (archive(item(), rootfs("")), "diff id"),
    "endless layers": (archive(item(), rootfs(*[OTHER] * 600)), "more than 512 layers"),
    "config no object": (archive(item(), b"[]"), "not a JSON object"),
    "environment a map": (archive(item(), config(config={"Env": {"a": "b"}})), "not of type list"),
    "bad tag": (archive(item(RepoTags=["../../x:y z"])), "invalid reference format"),
    "tag in capitals": (archive(item(RepoTags=["Upper:1"])), "must be lowercase"),
    "layer no tar": (
        archive(
            item(Layers=["bad"]),
            rootfs("sha256:" + hashlib.sha256(b"y" * 2048).hexdigest()),
            lambda a: a.file("bad", b"y" * 2048),
        ),
        "invalid tar header",
    ),
    "layout, layer changed": (swapped(oci(lambda _d: None)), "is not that"),
    "layout, config of another": (
        oci(lambda d: d["config"].update(digest=OTHER)),
        "has no file",
    ),
    "layout, digest a path": (
        oci(lambda d: d["layers"][0].update(digest="sha256:../../x")),
        "descriptor of",
    ),
    "layout, size a lie": (
        oci(lambda d: d["layers"][0].update(size=1)),
        "has [0-9]+ bytes, not 1",
    ),
    "layout, negative size": (oci(lambda d: d["layers"][0].update(size=-1)), "descriptor of"),
    "layout, index and manifest": (
        oci(lambda d: d.update(manifests=[])),
        "an index and a manifest at once",
    ),
    "layout, no layers": (oci(lambda d: d.update(layers=[])), "layers length mismatch"),
    "layout, unknown type": (
        oci(lambda d: d.update(mediaType="application/x-evil")),
        "manifest is of type|unsupported manifest media type",
    ),
}


def files(root: Path) -> set[str]:
    directories = ("content", "snapshots")
    return {str(path) for directory in directories for path in (root / directory).rglob("*")}


async def refusal(images: ImageService, data: bytes) -> str:
    try:
        await load(images, data)
    except EngineError as error:
        return str(error)
    return ""


@pytest.mark.timeout(60)
async def test_refused(tmp_path: Path) -> None:
    """All by one engine: none may spoil it for the next."""
    root = tmp_path / "root"
    async with service(root) as images:
        before = files(root)
        for name, (data, reason) in ARCHIVES.items():
            told = await refusal(images, data)
            assert re.search(reason, told), f"{name}: {told or 'loaded'}"
            assert images.find() == [], name
            assert not leftovers(root), name
            assert files(root) == before, name
        await load(images, WHOLE)


async def test_second_image_broken(tmp_path: Path) -> None:
    """One image of the archive is fine, and the other is not: none is loaded."""
    root = tmp_path / "root"
    broken = archive([*item(), {**item()[0], "RepoTags": ["lab:2"], "Layers": ["nope"]}])
    async with service(root) as images:
        before = files(root)
        with pytest.raises(EngineError, match="has no file"):
            await load(images, broken)
        assert images.find() == []
        assert files(root) == before
