"""A registry whose manifests lie: a clear error for each pull, and the store as it was."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.errors import EngineError
from images.endpoints import RegistryOptions
from tests.archives import Layer, image_config
from tests.registry import CONFIG_TYPE, MANIFEST, Registry
from tests.root.images_lab import leftovers, service

PLAIN = Layer().file("hello", "x" * 5000).tar()
PACKED = gzip.compress(PLAIN, 1, mtime=0)
OTHER = "sha256:" + "1" * 64


def size(number: int) -> dict[str, Any]:
    return {"size": number}


def without_layer(*diff_ids: str) -> bytes:
    config = json.loads(image_config([PLAIN], {}))
    config["rootfs"]["diff_ids"] = list(diff_ids)
    return json.dumps(config).encode()


# Name: (the layer's blob, changes of its descriptor, the configuration, the error)
CASES: dict[str, tuple[bytes, dict[str, Any], bytes | None, str]] = {
    "layer larger than said": (PACKED, size(len(PACKED) - 9), None, "longer than|has .* bytes"),
    "layer smaller than said": (PACKED, size(len(PACKED) + 9), None, "unexpected EOF|has .* bytes"),
    "layer of no size": (PACKED, size(0), None, "longer than|has .* bytes|digest"),
    "layer cut off": (PACKED[:60], {}, None, "unexpected EOF|corrupt"),
    "layer is HTML": (b"<html>busy</html>" * 99, {}, None, "tar header|unexpected EOF"),
    "layer of another image": (gzip.compress(b"\0" * 1024), {}, None, "layer has digest"),
    "layer of an unknown type": (PACKED, {"mediaType": "text/html"}, None, "media type"),
    "config of another layer": (PACKED, {}, without_layer(OTHER), "layer has digest"),
    "config without layers": (PACKED, {}, without_layer(), "layers length mismatch"),
    "config no JSON": (PACKED, {}, b"{", "(?i)invalid|JSON"),
    "config a list": (PACKED, {}, b"[]", "not a JSON object"),
}


def files(root: Path) -> set[str]:
    return {str(path) for part in ("content", "snapshots") for path in (root / part).rglob("*")}


def publish(registry: Registry, name: str, case: str) -> str:
    blob, changes, config, _ = CASES[case]
    layer = {**registry.put_blob(name, blob), **changes}
    configuration = image_config([PLAIN], {}) if config is None else config
    described = registry.put_blob(name, configuration, CONFIG_TYPE)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [layer]}
    registry.put_manifest(name, json.dumps(manifest).encode(), MANIFEST)
    return f"{registry.address}/{name}"


@pytest.mark.timeout(60)
async def test_refused(tmp_path: Path, registry: Registry) -> None:
    """All by one engine: none may spoil it for the next."""
    root = tmp_path / "root"
    once = RegistryOptions(max_attempts=1)
    async with service(root, registries=once) as images:
        before = files(root)
        for number, (case, (_, _, _, reason)) in enumerate(CASES.items()):
            name = publish(registry, f"lab/lies{number}:1", case)
            told = ""
            try:
                await images.exchange.pull(name, progress=lambda _line: None)
            except EngineError as error:
                told = str(error)
            assert re.search(reason, told), f"{case}: {told or 'pulled'}"
            assert images.find() == [], case
            assert not leftovers(root), case
            assert files(root) == before, case
        honest = registry.put("lab/honest:1", [PLAIN], [PACKED])
        await images.exchange.pull(honest, progress=lambda _line: None)
