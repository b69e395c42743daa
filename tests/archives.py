"""Test support: the tar files that tests load, made from the machine's static busybox."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
TOOLS = CHECKOUT / ".cache" / "tools"
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
postgres:x:70:70::/home:/bin/sh
nobody:x:65534:65534::/:/bin/false
"""
GROUP = "root:x:0:\npostgres:x:70:\nwheel:x:10:root,postgres\nnogroup:x:65534:\n"


def tool(name: str, path: str) -> Path:
    """A program that ./test unpacks below .cache, or the machine's own."""
    unpacked = TOOLS / path
    if unpacked.exists():
        return unpacked
    if found := shutil.which(name):
        return Path(found)
    raise RuntimeError(f"{name} is missing: ./test fetches it")


@dataclass
class Layer:
    """One layer's tar, built entry by entry; the same input gives the same bytes."""

    _buffer: io.BytesIO = field(default_factory=io.BytesIO)

    def __post_init__(self) -> None:
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def directory(self, name: str, mode: int = 0o755) -> Layer:
        return self._add(name, tarfile.DIRTYPE, mode, b"", "")

    def file(self, name: str, content: bytes | str, mode: int = 0o644) -> Layer:
        data = content.encode() if isinstance(content, str) else content
        return self._add(name, tarfile.REGTYPE, mode, data, "")

    def symlink(self, name: str, target: str) -> Layer:
        return self._add(name, tarfile.SYMTYPE, 0o777, b"", target)

    def hardlink(self, name: str, target: str) -> Layer:
        return self._add(name, tarfile.LNKTYPE, 0o644, b"", target)

    def _add(self, name: str, kind: bytes, mode: int, data: bytes, target: str) -> Layer:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), target
        entry.mtime = 1_600_000_000
        self._tar.addfile(entry, io.BytesIO(data))
        return self

    def tar(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def busybox_layer() -> bytes:
    program = tool("busybox", "bin/busybox")
    listing = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
    layer = Layer()
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var"):
        layer.directory(name)
    layer.directory("tmp", 0o1777)
    layer.file("bin/busybox", program.read_bytes(), 0o755)
    for applet in listing.stdout.split():
        if applet != "busybox":
            layer.symlink(f"bin/{applet}", "busybox")
    return layer.file("etc/passwd", PASSWD).file("etc/group", GROUP).tar()


def image_config(layers: Sequence[bytes], config: Mapping[str, Any]) -> bytes:
    created = "2024-05-06T07:08:09Z"
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": {"Env": [SEARCH_PATH], "Cmd": ["sh"], **config},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers],
            },
            "history": [{"created": created, "created_by": "test"} for _ in layers],
        },
        sort_keys=True,
    ).encode()


def docker_archive(
    tags: Sequence[str], layers: Sequence[bytes], config: Mapping[str, Any] | None = None
) -> bytes:
    """What ``docker save`` of before version 25 writes; every version loads it."""
    parsed = image_config(layers, config or {})
    name = f"{hashlib.sha256(parsed).hexdigest()}.json"
    archive = Layer().file(name, parsed)
    paths = []
    for number, tar in enumerate(layers):
        paths.append(f"layer{number}/layer.tar")
        archive.directory(f"layer{number}").file(paths[-1], tar)
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    return archive.file("manifest.json", json.dumps(manifest)).tar()


def oci_layout(tag: str, layers: Sequence[bytes], config: Mapping[str, Any] | None = None) -> bytes:
    """What today's ``docker save`` writes: blobs by digest below an index, and the old manifest."""
    blobs: dict[str, bytes] = {}

    def blob(media_type: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    prefix = "application/vnd.oci.image"
    blob_of = [
        blob(f"{prefix}.layer.v1.tar+gzip", gzip.compress(tar, 1, mtime=0)) for tar in layers
    ]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.manifest.v1+json",
        "config": blob(f"{prefix}.config.v1+json", image_config(layers, config or {})),
        "layers": blob_of,
    }

    def path(descriptor: dict[str, Any]) -> str:
        return "blobs/" + str(descriptor["digest"]).replace(":", "/")

    entry = blob(f"{prefix}.manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {
        "io.containerd.image.name": f"docker.io/library/{tag}",
        "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": f"{prefix}.index.v1+json", "manifests": [entry]}
    archive = Layer().file("oci-layout", '{"imageLayoutVersion": "1.0.0"}')
    archive.file("index.json", json.dumps(index)).directory("blobs").directory("blobs/sha256")
    old = {
        "Config": path(manifest["config"]),
        "RepoTags": [tag],
        "Layers": [path(layer) for layer in blob_of],
    }
    archive.file("manifest.json", json.dumps([old]))
    for digest, content in blobs.items():
        archive.file(f"blobs/sha256/{digest}", content)
    return archive.tar()
