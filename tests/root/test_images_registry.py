"""Pulling from and pushing to a real registry, and what a broken one does."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import EngineError, InternalError, NotFound, Unavailable
from images.content import digest_of
from images.endpoints import RegistryOptions
from images.manifest import OCI_INDEX
from images.model import Progress
from images.service import ImageService
from tests.archives import Layer, docker_archive
from tests.registry import Registry
from tests.root.images_lab import layer_directory, leftovers, load, put_index, service
from tests.root.images_proxy import Proxy


def layers(marker: str) -> list[bytes]:
    noise = os.urandom(3 << 20)
    return [
        Layer().directory("etc").file("etc/marker", marker).tar(),
        Layer().file("noise", noise).tar(),
    ]


async def pushed(images: ImageService, registry: Registry, name: str) -> str:
    """Push a new image and forget it here; its reference."""
    target = f"{registry.address}/{name}"
    (image,), _ = await load(images, docker_archive([target], layers(name)))
    await images.exchange.push(target, progress=lambda _line: None)
    await images.remove(image.id, force=True, no_prune=False, in_use=lambda _id: [])
    return target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


async def test_push_and_pull(root: Path, registry: Registry) -> None:
    lines: list[Progress] = []
    target = f"{registry.address}/lab/both:1"
    async with service(root) as images:
        (image,), _ = await load(images, docker_archive([target], layers("both")))
        pushed = await images.exchange.push(target, progress=lines.append)
        assert lines[0].status == f"The push refers to repository [{registry.address}/lab/both]"
        assert lines[-2].status == f"1: digest: {pushed.digest} size: {pushed.size}"
        assert lines[-1].aux == {"Tag": "1", "Digest": pushed.digest, "Size": pushed.size}
        assert images.resolve(target).repo_digests == (
            f"{registry.address}/lab/both@{pushed.digest}",
        )
        again = await images.exchange.push(target, progress=lines.append)
        assert again.digest == pushed.digest
        assert "Layer already exists" in {line.status for line in lines}
        await images.remove(target, force=False, no_prune=False, in_use=lambda _id: [])
        assert images.find() == []
        lines.clear()
        pulled = await images.exchange.pull(target, progress=lines.append)
        assert pulled.image.id == image.id
        assert pulled.digest == pushed.digest
        assert pulled.newer
        statuses = list(dict.fromkeys(line.status for line in lines))
        assert statuses[:2] == ["Pulling from lab/both", "Pulling fs layer"]
        assert statuses[-2:] == [
            f"Digest: {pushed.digest}",
            f"Status: Downloaded newer image for {target}",
        ]
        assert {"Downloading", "Verifying Checksum", "Download complete", "Extracting"} < set(
            statuses
        )
        assert not (await images.exchange.pull(target, progress=lines.append)).newer
        assert lines[-1].status == f"Status: Image is up to date for {target}"
        directory = layer_directory(root, pulled.image.chain_ids[0])
        assert (directory / "etc/marker").read_text() == "both"
        by_digest = await images.exchange.pull(
            f"{registry.address}/lab/both@{pushed.digest}", progress=lines.append
        )
        assert by_digest.image.id == image.id
        assert not leftovers(root)


async def test_errors_are_dockers(root: Path, registry: Registry) -> None:
    async with service(root) as images:
        missing = f"{registry.address}/nope:latest"
        with pytest.raises(NotFound, match=f"manifest for {missing} not found: manifest unknown"):
            await images.exchange.pull(missing, progress=lambda _line: None)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            taken.shutdown(socket.SHUT_RDWR)  # nobody listens, and nobody else can meanwhile
            refused = rf"dial tcp 127.0.0.1:{port}: connect: connection"
            with pytest.raises(InternalError, match=refused):
                await images.exchange.pull(f"127.0.0.1:{port}/x", progress=lambda _line: None)
        with pytest.raises(NotFound, match="An image does not exist locally with the tag: x"):
            await images.exchange.push("x", progress=lambda _line: None)


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with Proxy(registry.port) as running:
        yield running


async def test_ten_pulls_download_once(root: Path, registry: Registry, proxy: Proxy) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/ten")
        name = f"{proxy.address}/lab/ten"
        results = await asyncio.gather(
            *(images.exchange.pull(name, progress=lambda _line: None) for _ in range(10))
        )
        assert len({result.image.id for result in results}) == 1
        fetched = [path for path in proxy.requests if "/blobs/" in path]
        assert len(fetched) == len(set(fetched)) == 3  # two layers and the configuration


async def test_pull_repairs(root: Path, registry: Registry) -> None:
    """What somebody has removed from the store, or written into it."""
    async with service(root) as images:
        name = await pushed(images, registry, "lab/repair:1")
        pulled = await images.exchange.pull(name, progress=lambda _line: None)
        sizes = {path.name: path.stat().st_size for path in (root / "content/sha256").iterdir()}
        blob, *_ = sorted(sizes, key=lambda digest: sizes[digest], reverse=True)
        (root / "content/sha256" / blob).unlink()
        (root / "content/sha256" / pulled.image.id.removeprefix("sha256:")).write_bytes(b"{}")
        shutil.rmtree(layer_directory(root, pulled.image.chain_ids[0]).parent)
        again = await images.exchange.pull(name, progress=lambda _line: None)
        assert again.image.id == pulled.image.id
        assert sizes == {
            path.name: path.stat().st_size for path in (root / "content/sha256").iterdir()
        }
        assert images.details.configuration(again.image)
        directory = layer_directory(root, pulled.image.chain_ids[0])
        assert (directory / "etc/marker").read_text() == "lab/repair:1"


async def test_broken_download_is_resumed(root: Path, registry: Registry, proxy: Proxy) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/resume")
        proxy.cut_after = 2 << 20
        name = f"{proxy.address}/lab/resume"
        pulled = await images.exchange.pull(name, progress=lambda _line: None)
        assert pulled.image.size > 3 << 20
        assert [value for value in proxy.ranges if value], "no request had a Range"
        assert not leftovers(root)


async def test_corrupt_blob_is_refused(root: Path, registry: Registry, proxy: Proxy) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/corrupt")
        proxy.corrupt = True
        with pytest.raises(EngineError, match=r"does not match digest|verification failed"):
            await images.exchange.pull(f"{proxy.address}/lab/corrupt", progress=lambda _line: None)
        assert images.find() == []
        assert not leftovers(root)


async def test_cancelled_pull_leaves_nothing(root: Path, registry: Registry, proxy: Proxy) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/cancel")
        proxy.stall_after = 1 << 20
        begun = asyncio.Event()

        def progress(line: Progress) -> None:
            if line.status == "Downloading" and line.current:
                begun.set()

        pull = asyncio.ensure_future(
            images.exchange.pull(f"{proxy.address}/lab/cancel", progress=progress)
        )
        await asyncio.wait_for(begun.wait(), 30)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert images.find() == []
        assert not leftovers(root)
        assert not list((root / "content" / "sha256").iterdir())


async def test_dead_worker_fails_the_pull_only(
    root: Path, registry: Registry, proxy: Proxy
) -> None:
    async with service(root) as images:
        target = await pushed(images, registry, "lab/dead")
        proxy.stall_after = 1 << 20
        begun = asyncio.Event()
        pull = asyncio.ensure_future(
            images.exchange.pull(f"{proxy.address}/lab/dead", progress=lambda _line: begun.set())
        )
        await asyncio.wait_for(begun.wait(), 30)
        assert images.worker_pid is not None
        os.kill(images.worker_pid, 9)
        with pytest.raises(Unavailable, match="image worker ended unexpectedly"):
            await pull
        assert (await images.exchange.pull(target, progress=lambda _line: None)).newer


async def test_credentials_stay_with_their_registry(
    root: Path, registry: Registry, proxy: Proxy
) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/secret")
        with Proxy(registry.port) as other:
            proxy.redirect_blobs_to = other.address
            proxy.basic_auth = True
            auth = proxy.auth_config
            name = f"{proxy.address}/lab/secret"
            await images.exchange.pull(name, auth=auth, progress=lambda _line: None)
            assert any(proxy.authorizations)
            assert other.requests
            assert not any(other.authorizations)
        proxy.basic_auth = True
        with pytest.raises(NotFound, match=r"pull access denied for .*docker login"):
            await images.exchange.pull(name, progress=lambda _line: None)


async def test_busy_registry(root: Path, registry: Registry, proxy: Proxy) -> None:
    async with service(root) as images:
        await pushed(images, registry, "lab/busy")
        proxy.busy = [429, 503]
        begun = time.monotonic()
        await images.exchange.pull(f"{proxy.address}/lab/busy", progress=lambda _line: None)
        assert not proxy.busy
        assert time.monotonic() - begun > 1, "Retry-After was not heeded"


async def test_mirror_without_the_image(tmp_path: Path, root: Path, registry: Registry) -> None:
    """What one mirror does not have, the next one may."""
    layer = Layer().file("hello", "second").tar()
    (tmp_path / "empty").mkdir()
    empty = Registry(tmp_path / "empty")
    empty.start()
    registry.put("library/second:1", [layer], [layer])
    options = RegistryOptions(mirrors=(f"http://{empty.address}", f"http://{registry.address}"))
    try:
        async with service(root, registries=options) as images:
            await images.exchange.pull("second:1", progress=lambda _line: None)
            with pytest.raises(NotFound, match="manifest for second:2 not found"):
                await images.exchange.pull("second:2", progress=lambda _line: None)
    finally:
        empty.stop()


async def test_all_tags(root: Path, registry: Registry) -> None:
    name = f"{registry.address}/lab/tags"
    async with service(root) as images:
        for tag in ("1", "2", "3"):
            await load(images, docker_archive([f"{name}:{tag}"], [Layer().file("x", tag).tar()]))
        pushed_tags = await images.exchange.push_all(name, progress=lambda _line: None)
        assert [one.tag for one in pushed_tags] == ["1", "2", "3"]
        for tag in ("1", "2", "3"):
            await images.remove(f"{name}:{tag}", force=True, no_prune=False, in_use=lambda _id: [])
        lines: list[str] = []
        pulled = await images.exchange.pull_all(
            name, progress=lambda line: lines.append(line.status)
        )
        assert {one.reference for one in pulled} == {f"{name}:{tag}" for tag in ("1", "2", "3")}
        assert {one.digest for one in pulled} == {one.digest for one in pushed_tags}
        assert lines[-1] == f"Status: Downloaded newer image for {name}"


async def test_index_is_kept_whole(root: Path, registry: Registry) -> None:
    """Of several platforms one is pulled; the digest is the index's, and so is what is kept."""
    data = put_index(registry, "lab/index:1", ("arm64", "amd64"))
    digest = digest_of(data)
    name = f"{registry.address}/lab/index:1"
    async with service(root) as images:
        remote = await images.exchange.inspect_remote(name)
        assert (remote.digest, remote.media_type) == (digest, OCI_INDEX)
        assert remote.platforms == ("linux/arm64", "linux/amd64")
        pulled = await images.exchange.pull(name, progress=lambda _line: None)
        assert pulled.digest == digest
        assert str(pulled.image.platform) == "linux/amd64"
        kept = root / "content" / "sha256" / digest.removeprefix("sha256:")
        assert kept.read_bytes() == data
        with pytest.raises(NotFound, match=r"was found but its platform \(linux/amd64\) does not"):
            images.resolve(name, "linux/arm64")
        other = await images.exchange.pull(
            name, platform="linux/arm64", progress=lambda _line: None
        )
        assert str(other.image.platform) == "linux/arm64"
        assert images.resolve(name, "linux/arm64").id == other.image.id
        assert images.resolve(pulled.image.id).repo_tags == ()
