"""Tagging, removing and pruning: what goes, what stays, and Docker's words for why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import Conflict, InvalidArgument, NotFound
from common.ids import short
from images.model import Image, Removal, Use
from images.service import ImageService
from images.snapshots import Snapshots
from tests.archives import Layer, docker_archive
from tests.root.images_lab import CONTAINER, layer_directory, leftovers, load, service


def unused(_image_id: str) -> list[Use]:
    return []


def stopped(_image_id: str) -> list[Use]:
    return [Use(CONTAINER, running=False)]


def running(_image_id: str) -> list[Use]:
    return [Use(CONTAINER, running=True)]


BASE = Layer().file("base", "base").tar()


async def image(images: ImageService, *tags: str, content: str = "top") -> Image:
    archive = docker_archive(list(tags), [BASE, Layer().file("top", content).tar()])
    (loaded,), _ = await load(images, archive)
    return loaded


async def remove(
    images: ImageService, name: str, *, force: bool = False, in_use: object = unused
) -> list[Removal]:
    assert callable(in_use)
    return await images.remove(name, force=force, no_prune=False, in_use=in_use)


async def test_removal_takes_everything_along(tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with service(root) as images:
        made = await image(images, "a:1")
        other = await image(images, "b:1", content="other")
        removed = await remove(images, "a:1")
        assert removed == [
            Removal(untagged="a:1"),
            Removal(deleted=made.id),
            Removal(deleted=made.chain_ids[1]),
        ]
        assert layer_directory(root, other.chain_ids[0]).exists()
        assert len(await remove(images, "b:1")) == 4
        assert not list((root / "content" / "sha256").iterdir())
        assert {path.name for path in (root / "snapshots").iterdir()} == {
            "driver",
            "init",
            "l",
            "new",
        }
        assert not list((root / "snapshots" / "l").iterdir())


async def test_tags(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        made = await image(images, "a:1")
        images.tag("a:1", "localhost:5000/x/y")
        assert images.resolve(made.id).repo_tags == ("a:1", "localhost:5000/x/y:latest")
        assert images.resolve(made.id[7:12]).id == made.id
        with pytest.raises(InvalidArgument, match="cannot import digest reference"):
            images.tag("a:1", f"x@{made.id}")
        with pytest.raises(NotFound, match=r"^No such image: nope:latest$"):
            images.tag("nope", "x")
        with pytest.raises(NotFound, match=r"^No such image: sha256:0{64}$"):
            images.resolve("0" * 64)
        assert await remove(images, "a:1", in_use=running) == [Removal(untagged="a:1")]


@pytest.mark.parametrize(
    ("name", "in_use", "message"),
    [
        (
            "a:1",
            stopped,
            'conflict: unable to remove repository reference "a:1" (must force) - container'
            f" {short(CONTAINER)} is using its referenced image ID",
        ),
        (
            "ID",
            stopped,
            "conflict: unable to delete ID (must be forced) - image is being used by stopped"
            f" container {short(CONTAINER)}",
        ),
        (
            "ID",
            running,
            "conflict: unable to delete ID (cannot be forced) - image is being used by running"
            f" container {short(CONTAINER)}",
        ),
    ],
)
async def test_conflicts(tmp_path: Path, name: str, in_use: object, message: str) -> None:
    async with service(tmp_path / "root") as images:
        made = await image(images, "a:1")
        identity = short(made.id)
        with pytest.raises(Conflict) as raised:
            await remove(images, name.replace("ID", identity), in_use=in_use)
        assert str(raised.value) == message.replace("ID", identity)
        assert images.resolve("a:1").repo_tags == ("a:1",)
        images.tag("a:1", "b:1")
        expected = re.escape(f"unable to delete {identity} (must be forced) - image is referenced")
        with pytest.raises(Conflict, match=expected):
            await remove(images, identity)
        assert len(await remove(images, identity, force=True, in_use=stopped)) == 5


async def test_prune_and_filters(tmp_path: Path) -> None:
    async with service(tmp_path / "root") as images:
        nameless = await image(images)
        named = await image(images, "a:1", content="a")
        used = await image(images, "b:1", content="b")
        assert images.find({"dangling": ["true"]}) == [nameless]
        assert {found.id for found in images.find({"reference": ["a", "b:*"]})} == {
            named.id,
            used.id,
        }
        with pytest.raises(InvalidArgument, match="invalid filter 'nope'"):
            images.find({"nope": ["x"]})
        pruned = await images.prune({}, unused)
        assert pruned.removed[0].deleted == nameless.id
        assert pruned.space_reclaimed == len("top")
        in_use = {used.id: stopped(used.id)}
        await images.prune({"dangling": ["false"]}, lambda image_id: in_use.get(image_id, []))
        assert images.find() == [used]
        assert images.disk_usage().layers_size == used.size


async def test_crash_leaves_nothing_for_long(tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with service(root) as images:
        kept = await image(images, "a:1")
        snapshots = Snapshots(root / "snapshots")
        (snapshots.new_partial() / "fs" / "half").touch()
        orphan = snapshots.new_partial()
        snapshots.commit_layer(orphan, "sha256:" + "1" * 64, size=0)
        (root / "content" / "sha256" / ("2" * 64)).touch()
        (root / "content" / "ingest" / "half").touch()
    async with service(root) as images:
        assert not leftovers(root)
        assert images.resolve("a:1") == kept
        names = {path.name for path in (root / "snapshots").iterdir()}
        assert names == {
            "driver",
            "init",
            "l",
            "new",
            *(chain.removeprefix("sha256:") for chain in kept.chain_ids),
        }
        assert len(list((root / "snapshots" / "l").iterdir())) == 2
        assert len(list((root / "content" / "sha256").iterdir())) == 3


def test_many_layers_on_old_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images.snapshots._kernel_version", lambda: (6, 1))
    snapshots = Snapshots(tmp_path)
    snapshots.create()
    chain_ids = [f"sha256:{number:064x}" for number in range(32)]
    for chain_id in chain_ids:
        snapshots.commit_layer(snapshots.new_partial(), chain_id, size=0)
    (mount,) = snapshots.prepare_container(CONTAINER, chain_ids)
    (lower,) = [option for option in mount.options if option.startswith("lowerdir=")]
    assert len(",".join(mount.options)) < 4096
    paths = [Path(path) for path in lower.removeprefix("lowerdir=").split(":")]
    assert paths[0].parent == tmp_path / "l"
    assert [path.resolve() for path in paths] == [
        *(snapshots.layer(chain_id) / "fs" for chain_id in reversed(chain_ids)),
        tmp_path / "init" / "fs",
    ]
