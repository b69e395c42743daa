"""Pulling from and pushing to a real registry, and what a broken one does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import EngineError, InternalError, NotFound, Unavailable
from images.model import Progress
from images.service import ImageService
from tests.archives import Layer, docker_archive
from tests.registry import Registry, free_port
from tests.root.images_lab import layer_directory, leftovers, load, service
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
        port = free_port()
        with pytest.raises(InternalError, match=rf"dial tcp 127.0.0.1:{port}: connect: connection"):
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
        big = [path for path in set(fetched) if proxy.sizes[path] > 1 << 20]
        assert len(big) == 1
        assert fetched.count(big[0]) == 1


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
        await asyncio.wait_for(begun.wait(), 10)
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
        await asyncio.wait_for(begun.wait(), 10)
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
