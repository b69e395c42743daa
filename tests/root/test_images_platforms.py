"""Several platforms of one image: what save writes of them, and what load takes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import EngineError, InternalError, NotFound
from images.content import digest_of
from images.service import ImageService
from tests.registry import Registry
from tests.root.images_lab import load, put_index, readable, service

ARM, AMD = "linux/arm64", "linux/amd64"
ARCHITECTURES = ("arm64", "amd64", "s390x")


async def pulled(images: ImageService, registry: Registry, name: str, *platforms: str) -> bytes:
    """The index of an image of which some platforms are here now, the last with the tag."""
    index = put_index(registry, name, ARCHITECTURES)
    for platform in platforms:
        await images.exchange.pull(
            f"{registry.address}/{name}", platform=platform, progress=lambda _line: None
        )
    return index


async def saved(images: ImageService, *names: str, platform: str | None = None) -> bytes:
    fd = os.memfd_create("saved", os.MFD_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        await images.save(names, fd, platform=platform)
        file.seek(0)
        return file.read()


def files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        contents = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
        return {name: content.read() for name, content in contents.items() if content}


def blob(found: dict[str, bytes], descriptor: Any) -> Any:
    data = found["blobs/" + descriptor["digest"].replace(":", "/")]
    assert digest_of(data) == descriptor["digest"]
    assert len(data) == descriptor["size"]
    return json.loads(data)


def platforms(found: dict[str, bytes], entries: Sequence[Any]) -> list[str]:
    """By the configurations, and every layer is there."""
    names = []
    for entry in entries:
        manifest = blob(found, entry)
        assert all(
            "blobs/" + one["digest"].replace(":", "/") in found for one in manifest["layers"]
        )
        names.append(str(blob(found, manifest["config"])["architecture"]))
    return names


async def test_all_that_are_here_are_saved(tmp_path: Path, registry: Registry) -> None:
    async with service(tmp_path / "root") as images:
        index = await pulled(images, registry, "lab/some:1", AMD, ARM)
        name = f"{registry.address}/lab/some:1"
        found = files(await saved(images, name))
        (entry,) = json.loads(found["index.json"])["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == name
        inner = blob(found, entry)["manifests"]
        assert platforms(found, inner) == ["arm64", "amd64"]
        assert [one["platform"]["architecture"] for one in inner] == ["arm64", "amd64"]
        assert [one["digest"] for one in inner] == [
            one["digest"] for one in json.loads(index)["manifests"][:2]
        ]
        # Who reads the old manifest gets the image that has the tag.
        (old,) = json.loads(found["manifest.json"])
        assert json.loads(found[old["Config"]])["architecture"] == "arm64"
        (single,) = json.loads(files(await saved(images, name, platform=AMD))["index.json"])[
            "manifests"
        ]
        assert single["digest"] == inner[1]["digest"]
        with pytest.raises(InternalError, match="no suitable export target found for platform"):
            await saved(images, name, platform="linux/s390x")


async def test_whole_index_keeps_its_digest(tmp_path: Path, registry: Registry) -> None:
    async with service(tmp_path / "root") as images:
        every = [f"linux/{architecture}" for architecture in ARCHITECTURES]
        index = await pulled(images, registry, "lab/every:1", *every)
        found = files(await saved(images, f"{registry.address}/lab/every:1"))
        (entry,) = json.loads(found["index.json"])["manifests"]
        assert entry["digest"] == digest_of(index)
        assert platforms(found, blob(found, entry)["manifests"]) == list(ARCHITECTURES)


async def test_load_takes_one(tmp_path: Path, registry: Registry) -> None:
    name = f"{registry.address}/lab/taken:1"
    async with service(tmp_path / "first") as images:
        await pulled(images, registry, "lab/taken:1", AMD, ARM)
        archive = await saved(images, name)
    async with service(tmp_path / "second") as images:
        with readable(archive) as fd:
            (one,) = await images.load(fd, platform=AMD, progress=lambda _line: None)
        assert str(one.platform) == AMD
        (other,), _ = await load(images, archive)
        assert str(other.platform) == ARM  # which the tag named
        assert images.resolve(name).id == other.id
        with readable(archive) as fd, pytest.raises(EngineError, match="not found in the archive"):
            await images.load(fd, platform="linux/s390x", progress=lambda _line: None)
        # Both are here again, so both are saved again, with the same digests.
        again = files(await saved(images, name))
        assert again["index.json"] == files(archive)["index.json"]


async def test_index_knows_better_than_the_configuration(
    tmp_path: Path, registry: Registry
) -> None:
    put_index(registry, "lab/wrong:1", ("amd64",), listed_as="riscv64")
    name = f"{registry.address}/lab/wrong:1"
    async with service(tmp_path / "root") as images:
        await images.exchange.pull(name, platform="linux/riscv64", progress=lambda _line: None)
        assert str(images.resolve(name, "linux/riscv64").platform) == AMD
        with pytest.raises(NotFound, match="does not match the specified platform"):
            images.resolve(name, ARM)
