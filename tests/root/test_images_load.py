"""Loading and importing images, and the mounts that containers get of them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from common.errors import InvalidArgument, NotFound
from tests.archives import Layer, docker_archive, image_config, oci_layout
from tests.root.images_lab import (
    CONTAINER,
    layer_directory,
    leftovers,
    load,
    readable,
    service,
)


def two_layers() -> list[bytes]:
    lower = Layer().directory("etc").file("etc/a", "lower a").file("etc/b", "lower b")
    lower.directory("data").file("data/old", "old").file("bin/tool", "#!", 0o4755)
    upper = Layer().directory("etc").file("etc/.wh.a", "").file("etc/c", "upper c")
    upper.directory("data").file("data/new", "new").file("data/.wh..wh..opq", "")
    return [lower.tar(), upper.tar()]


@pytest.mark.parametrize("make", [docker_archive, oci_layout])
async def test_load(tmp_path: Path, make: object) -> None:
    archive = docker_archive(["lab:1"], two_layers())
    if make is oci_layout:
        archive = oci_layout("lab:1", two_layers())
    async with service(tmp_path / "root") as images:
        (image,), lines = await load(images, archive)
        assert image.repo_tags == ("lab:1",)
        assert images.resolve("lab:1").id == image.id
        assert images.resolve(image.id[7:19]).id == image.id
        assert lines[-1].stream == "Loaded image: lab:1\n"
        assert {line.status for line in lines[:-1]} == {"Loading layer"}
        lower, upper = (layer_directory(tmp_path / "root", chain) for chain in image.chain_ids)
        assert (lower / "etc/a").read_text() == "lower a"
        assert stat.S_IMODE((lower / "bin/tool").stat().st_mode) == 0o4755
        whiteout = (upper / "etc/a").lstat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert whiteout.st_rdev == 0
        assert os.getxattr(upper / "data", "trusted.overlay.opaque") == b"y"
        assert (upper / "data").stat().st_mtime == 1_600_000_000
        assert not leftovers(tmp_path / "root")


async def test_images_that_share_a_layer(tmp_path: Path) -> None:
    lower, upper = two_layers()
    archive = Layer().file("lower.tar", lower).file("upper.tar", upper)
    manifest = []
    for number, layers in enumerate(([lower], [lower, upper])):
        archive.file(f"{number}.json", image_config(layers, {}))
        paths = ["lower.tar", "upper.tar"][: len(layers)]
        tags = [f"lab:{number}"]
        manifest.append({"Config": f"{number}.json", "RepoTags": tags, "Layers": paths})
    archive.file("manifest.json", json.dumps(manifest))
    async with service(tmp_path / "root") as images:
        loaded, _ = await load(images, archive.tar())
        assert [image.repo_tags for image in loaded] == [("lab:0",), ("lab:1",)]
        assert loaded[0].chain_ids == loaded[1].chain_ids[:1]
        assert not leftovers(tmp_path / "root")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, lzma.compress])
async def test_compressed_archive(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    async with service(tmp_path / "root") as images:
        (image,), _ = await load(images, compress(docker_archive(["lab:1"], two_layers())))
        assert image.repo_tags == ("lab:1",)


async def test_untagged_image_is_shown_by_id(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        (image,), lines = await load(images, docker_archive([], two_layers()))
        assert lines[-1].stream == f"Loaded image ID: {image.id}\n"


async def test_loading_over_a_tag_renames_the_old_image(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        (old,), _ = await load(images, docker_archive(["lab:1"], two_layers()))
        (new,), lines = await load(images, docker_archive(["lab:1"], two_layers()[:1]))
        assert lines[-2].stream == (
            f"The image lab:1 already exists, renaming the old one with ID {old.id}"
            " to empty string\n"
        )
        assert images.resolve("lab:1").id == new.id
        assert images.resolve(old.id).repo_tags == ()


async def test_import(tmp_path: Path) -> None:
    root = Layer().directory("etc").file("etc/motd", "hello").tar()
    changes = ['CMD ["sh"]', "ENV A=1 B='2 3'", "EXPOSE 80 90-91/udp", "LABEL k=v"]
    async with service(tmp_path / "root") as images:
        with readable(gzip.compress(root)) as fd:
            image = await images.import_(fd, name="made", changes=changes, message="by hand")
        assert image.repo_tags == ("made:latest",)
        assert image.config.cmd == ("sh",)
        assert image.config.env == ("A=1", "B=2 3")
        assert image.config.exposed_ports == ("80/tcp", "90/udp", "91/udp")
        assert image.config.labels == {"k": "v"}
        assert [item.comment for item in images.history("made")] == ["by hand"]
        directory = layer_directory(tmp_path / "root", image.chain_ids[0])
        assert (directory / "etc/motd").read_text() == "hello"
        with readable(root) as fd, pytest.raises(InvalidArgument, match="not a valid change"):
            await images.import_(fd, name="made", changes=["RUN x"])


async def test_containers_keep_their_layers(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        (image,), _ = await load(images, docker_archive(["lab:1"], two_layers()))
        (mount,) = await images.prepare_container(CONTAINER, image)
        assert mount.type == "overlay"
        assert mount.destination == "/"
        assert images.container_mounts(CONTAINER) == [mount]
        removed = await images.remove("lab:1", force=True, no_prune=False, in_use=lambda _id: [])
        assert [record.deleted for record in removed if record.deleted] == [image.id]
        with pytest.raises(NotFound, match=r"No such image: lab:1"):
            images.resolve("lab:1")
    async with service(tmp_path / "root") as images:
        assert images.container_mounts(CONTAINER) == [mount]
        assert layer_directory(tmp_path / "root", image.chain_ids[0]).exists()
        await images.remove_container(CONTAINER)
        assert not layer_directory(tmp_path / "root", image.chain_ids[0]).exists()
        assert not leftovers(tmp_path / "root")


async def test_junk_is_refused(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        with pytest.raises(InvalidArgument, match="unexpected EOF"):
            await load(images, b"junk")
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w").close()
        with pytest.raises(InvalidArgument, match=r"neither manifest\.json nor index\.json"):
            await load(images, empty.getvalue())
        wrong = docker_archive(["lab:1"], [Layer().file("a", "b").tar()]).replace(
            b"b" + bytes(511), b"c" + bytes(511)
        )
        with pytest.raises(InvalidArgument, match="failed to register layer: layer has digest"):
            await load(images, wrong)
        assert images.find() == []
        assert not leftovers(tmp_path / "root")
