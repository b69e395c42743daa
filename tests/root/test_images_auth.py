"""Registries that want credentials or certificates: real ones, with the tests' token service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from common.errors import EngineError, InternalError, NotFound, PermissionDenied, Unauthenticated
from images.endpoints import RegistryOptions
from images.model import AuthConfig
from images.service import ImageService
from tests.archives import Layer, docker_archive
from tests.registry import Registry
from tests.root.images_lab import load, service
from tests.root.images_proxy import Proxy
from tests.token_service import PASSWORD, REFRESH_TOKEN, USER, TokenService, make_certificate

GOOD = AuthConfig(username=USER, password=PASSWORD)
WRONG = replace(GOOD, password="wrong")
# htpasswd's bcrypt form of PASSWORD; docker-registry takes no other.
HTPASSWD = "user:$2y$05$zlwb0IfiMiEb7evlqWx4hu6Qa8oR1nFXPRVpG89Fd1iVQF6fRCh5a\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenService]:
    with TokenService(tmp_path) as running:
        yield running


@pytest.fixture
def guarded(tmp_path: Path, tokens: TokenService) -> Iterator[Registry]:
    registry = Registry(tmp_path, auth=tokens.registry_section)
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture
def basic(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    section = {"htpasswd": {"realm": "lab", "path": str(tmp_path / "htpasswd")}}
    registry = Registry(tmp_path, auth=section)
    registry.start()
    yield registry
    registry.stop()


async def loaded(images: ImageService, target: str) -> None:
    await load(images, docker_archive([target], [Layer().file("hello", target).tar()]))


async def move(images: ImageService, target: str, auth: AuthConfig) -> None:
    """Push and pull again."""
    await loaded(images, target)
    pushed = await images.exchange.push(target, auth=auth, progress=lambda _line: None)
    await images.remove(target, force=True, no_prune=False, in_use=lambda _id: [])
    pulled = await images.exchange.pull(target, auth=auth, progress=lambda _line: None)
    assert pulled.digest == pushed.digest


async def test_token(tmp_path: Path, guarded: Registry, tokens: TokenService) -> None:
    async with service(tmp_path / "root") as images:
        target = f"{guarded.address}/lab/token:1"
        await move(images, target, GOOD)
        assert {request["how"] for request in tokens.requests} == {"basic"}
        assert {request["account"] for request in tokens.requests} == {USER}
        assert all("offline_token" not in request for request in tokens.requests)
        assert "repository:lab/token:pull,push" in tokens.requests[0]["scope"]
        tokens.requests.clear()
        await images.exchange.pull(target, progress=lambda _line: None)
        assert {request["how"] for request in tokens.requests} == {"anonymous"}
        with pytest.raises(PermissionDenied):
            await images.exchange.push(target, progress=lambda _line: None)
        with pytest.raises(Unauthenticated, match="incorrect username or password"):
            await images.exchange.pull(target, auth=WRONG, progress=lambda _line: None)


async def test_identity_and_registry_token(
    tmp_path: Path, guarded: Registry, tokens: TokenService
) -> None:
    async with service(tmp_path / "root") as images:
        address = replace(GOOD, server_address=guarded.address)
        identity = await images.exchange.login(address)
        assert identity == REFRESH_TOKEN
        assert tokens.requests[-1]["offline_token"] == "true"
        target = f"{guarded.address}/lab/identity:1"
        await move(images, target, AuthConfig(identity_token=identity))
        assert tokens.requests[-1]["how"] == "refresh"
        tokens.requests.clear()
        token = tokens.sign(USER, ["repository:lab/identity:pull"])
        auth = AuthConfig(registry_token=token)
        await images.exchange.pull(target, auth=auth, progress=lambda _line: None)
        assert not tokens.requests
        with pytest.raises(Unauthenticated, match="incorrect username or password"):
            await images.exchange.login(replace(address, password="wrong"))


async def test_token_that_expires_at_once(
    tmp_path: Path, guarded: Registry, tokens: TokenService
) -> None:
    tokens.seconds = 11  # one second of use, with the margin that the client keeps
    async with service(tmp_path / "root") as images:
        await move(images, f"{guarded.address}/lab/short:1", GOOD)


async def test_layers_are_mounted_across_repositories(
    tmp_path: Path, guarded: Registry, tokens: TokenService
) -> None:
    async with service(tmp_path / "root") as images:
        first, second = (f"{guarded.address}/lab/{name}:1" for name in ("first", "second"))
        await move(images, first, GOOD)
        images.tag(first, second)
        lines: list[str] = []
        await images.exchange.push(
            second, auth=GOOD, progress=lambda line: lines.append(line.status)
        )
        assert "Mounted from lab/first" in lines
        assert "Pushed" not in lines


async def test_basic(tmp_path: Path, basic: Registry) -> None:
    async with service(tmp_path / "root") as images:
        target = f"{basic.address}/lab/basic:1"
        await move(images, target, GOOD)
        assert await images.exchange.login(replace(GOOD, server_address=basic.address)) == ""
        found = await images.exchange.inspect_remote(target, auth=GOOD)
        assert found.platforms == ("linux/amd64",)
        for auth in (WRONG, None):
            with pytest.raises(NotFound, match="pull access denied"):
                await images.exchange.pull(target, auth=auth, progress=lambda _line: None)
        url = f"http://{basic.address}/v2/"
        with pytest.raises(InternalError, match=f"login attempt to {url} failed with status: 401"):
            await images.exchange.login(replace(WRONG, server_address=url))


async def test_mirror_gets_no_credentials(tmp_path: Path, registry: Registry) -> None:
    layer = Layer().file("hello", "mirrored").tar()
    registry.put("library/mirrored:1", [layer], [layer])
    with Proxy(registry.port) as proxy:
        options = RegistryOptions(mirrors=(f"http://{proxy.address}",))
        async with service(tmp_path / "root", registries=options) as images:
            proxy.basic_auth = True
            with pytest.raises(EngineError):
                await images.exchange.pull("mirrored:1", auth=GOOD, progress=lambda _line: None)
            proxy.basic_auth = False
            await images.exchange.pull("mirrored:1", auth=GOOD, progress=lambda _line: None)
            assert not any(proxy.authorizations)
            assert images.resolve("mirrored:1").repo_tags == ("mirrored:1",)


@pytest.fixture
def host() -> Iterator[str]:
    """An address of this machine that is none of the loopback's, which need no certificate."""
    address = f"10.249.{os.getpid() % 250}.1"
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="lo")[0]
        netlink.addr("add", index=index, address=address, prefixlen=32)
        yield address
        netlink.addr("del", index=index, address=address, prefixlen=32)


async def test_certificates(tmp_path: Path, host: str) -> None:
    certificate, key = make_certificate(tmp_path, "server", subject=host)
    client, client_key = make_certificate(tmp_path, "client")
    tls = {"certificate": str(certificate), "key": str(key), "clientcas": [str(client)]}
    registry = Registry(tmp_path, tls=tls, host=host)
    registry.start()
    layer = Layer().file("hello", "tls").tar()
    target = registry.put("lab/tls:1", [layer], [layer])
    trusted = tmp_path / "certs.d" / registry.address
    options = RegistryOptions(certificates=tmp_path / "certs.d")
    try:
        async with service(tmp_path / "root", registries=options) as images:
            with pytest.raises(InternalError, match="failed to verify certificate"):
                await images.exchange.pull(target, progress=lambda _line: None)
            trusted.mkdir(parents=True)
            shutil.copy(certificate, trusted / "ca.crt")
            shutil.copy(client, trusted / "client.cert")
            shutil.copy(client_key, trusted / "client.key")
            await images.exchange.pull(target, progress=lambda _line: None)
            (trusted / "ca.crt").unlink()
            insecure = replace(options, insecure=(f"{host}/32",))
            async with service(tmp_path / "other", registries=insecure) as other:
                await other.exchange.pull(target, progress=lambda _line: None)
            (trusted / "client.key").unlink()
            with pytest.raises(InternalError, match="cannot use the certificates"):
                await images.exchange.pull(target, progress=lambda _line: None)
    finally:
        registry.stop()
