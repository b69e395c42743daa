"""Manifests and configurations as hostile input."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.errors import EngineError
from images import config, manifest
from images.model import Platform

DIGEST = "sha256:" + "a" * 64


def descriptor(**more: Any) -> dict[str, Any]:
    return {"mediaType": manifest.OCI_LAYER_GZIP, "digest": DIGEST, "size": 1, **more}


def document(**more: Any) -> bytes:
    parts = {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], **more}
    return json.dumps(parts).encode()


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"[]", ""),
        (b"[" * 100_000, ""),
        (document(manifests=[]), ""),
        (document(mediaType=manifest.OCI_MANIFEST), manifest.OCI_INDEX),
        (document(mediaType="text/plain"), ""),
        (document(schemaVersion=1), ""),
        (document(config=descriptor(digest="../../etc/passwd")), ""),
        (document(config=descriptor(digest="sha256:" + "A" * 64)), ""),
        (document(config=descriptor(size=-1)), ""),
        (document(config=descriptor(size=True)), ""),
        (document(layers=[descriptor()] * 600), ""),
        (document(layers={}), ""),
    ],
)
def test_refused(data: bytes, content_type: str) -> None:
    with pytest.raises(EngineError):
        manifest.parse(data, content_type)


CHOICES = (
    *(("linux/amd64", 2), ("linux/arm64", 3), ("linux/arm/v6", 0), ("arm", 1)),
    *(("linux/amd64/v3", 2), ("linux/arm/v8", 1)),
)


def test_platform_choice() -> None:
    names = ("linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/arm64/v8", "unknown/unknown")
    entries = []
    for number, name in enumerate(names):
        system, architecture, *variant = name.split("/")
        platform = {"os": system, "architecture": architecture, "variant": "".join(variant)}
        entries.append(descriptor(digest=f"sha256:{number:064x}", platform=platform))
    index = manifest.parse(json.dumps({"manifests": entries}).encode())
    assert isinstance(index, manifest.Index)
    for wanted, number in CHOICES:
        chosen = manifest.choose(index, Platform.parse(wanted))
        assert chosen is not None
        assert int(chosen.digest.removeprefix("sha256:"), 16) == number
    for wanted in ("linux/s390x", "linux/arm/v5", "linux/386"):
        assert manifest.choose(index, Platform.parse(wanted)) is None


@pytest.mark.parametrize(
    ("wanted", "other", "rank"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/386", 1),
        ("linux/amd64/v3", "linux/amd64/v2", 1),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/amd64/v2", "linux/amd64/v3", None),
        ("linux/amd64", "linux/amd64/v3", None),
        ("linux/arm/v5", "linux/arm", 1),
        ("linux/386", "linux/amd64", None),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm64", "linux/arm/v7", 2),
        ("linux/arm", "linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/amd64", "windows/amd64", None),
    ],
)
def test_platform_rank(wanted: str, other: str, rank: int | None) -> None:
    system, architecture, *variant = other.split("/")
    image = Platform(system, architecture, "".join(variant))
    assert Platform.parse(wanted).rank(image) == rank
    assert Platform.parse(wanted).same(image) == (rank == 0)


def test_configuration() -> None:
    parsed = config.parse(
        json.dumps(
            {
                "architecture": "amd64",
                "config": {"Env": ["A=1", "HOME"], "Cmd": None, "Labels": {"k": "v"}},
                "rootfs": {"diff_ids": [DIGEST, DIGEST]},
            }
        ).encode()
    )
    assert parsed.config.env == ("A=1",)  # one without = would take the daemon's own value
    assert parsed.config.cmd is None
    assert parsed.config.labels == {"k": "v"}
    assert config.parse(config.serialize(parsed)) == parsed
    first, second = config.chain_ids(parsed.diff_ids)
    assert first == DIGEST
    assert second not in (first, DIGEST)


@pytest.mark.parametrize(
    "members",
    [
        {"config": []},
        {"config": {"Env": "A=1"}},
        {"config": {"Labels": {"k": 1}}},
        {"history": [1]},
        {"rootfs": {"diff_ids": ["../x"]}},
    ],
)
def test_hostile_configuration(members: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        config.parse(json.dumps(members).encode())
