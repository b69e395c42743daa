"""Library: the values that images/ gives to lifecycle, and what both sides of the worker share.

Everything here is immutable. JSON (image configurations, manifests) is parsed into these once, in
``images/config.py`` and ``images/manifest.py``; nothing else in the package passes raw JSON around.
"""

from __future__ import annotations

import platform as host
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidArgument

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_COMPONENT = re.compile("[A-Za-z0-9_.-]+")
_SYNONYMS = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "i386": "386",
}


# Architectures that can be named alone.
_KNOWN = frozenset(
    (
        *("386", "amd64", "amd64p32", "arm", "arm64", "armbe", "arm64be", "loong64", "mips"),
        *("mipsle", "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le"),
        *("riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm"),
        *_SYNONYMS,
    )
)


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def of_host(cls) -> Platform:
        machine = host.machine()
        architecture = _ARCHITECTURES.get(machine, machine)
        return cls("linux", architecture, "v7" if machine == "armv7l" else "")

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os[/architecture[/variant]]``, or an architecture alone, as clients write it."""
        parts = text.lower().split("/")
        for part in parts:
            if not _COMPONENT.fullmatch(part):
                raise InvalidArgument(
                    f'"{part}" is an invalid component of "{text}": platform specifier component'
                    f' must match "^{_COMPONENT.pattern}$": invalid argument'
                )
        if len(parts) > 3:
            raise InvalidArgument(f'"{text}": cannot parse platform specifier: invalid argument')
        if len(parts) == 1 and parts[0] != "linux":
            if parts[0] not in _KNOWN:
                raise InvalidArgument(
                    f'"{text}": unknown operating system or architecture: invalid argument'
                )
            parts.insert(0, "linux")
        architecture = parts[1] if len(parts) > 1 else cls.of_host().architecture
        architecture = _SYNONYMS.get(architecture, architecture)
        variant = parts[2] if len(parts) > 2 else ""
        if architecture == "arm64" and variant == "v8":
            variant = ""
        if architecture == "arm" and not variant:
            variant = "v7"
        return cls(parts[0], architecture, variant)

    def matches(self, other: Platform) -> bool:
        """Whether an image for ``other`` serves a wish for this platform."""
        return self.rank(other) is not None

    def rank(self, other: Platform) -> int | None:
        """How well an image for ``other`` serves a wish for this platform: 0 is best, None not.

        A CPU runs programs for older ones of its kind (containerd's platforms.Only). Images often
        do not say their variant, and serve every wish for their architecture.
        """
        if self.os != other.os:
            return None
        runs = _runs(self.architecture, self.variant)
        theirs = (other.architecture, _variant(other.architecture, other.variant))
        if theirs in runs:
            return runs.index(theirs)
        return len(runs) if self.architecture == other.architecture and not other.variant else None

    def same(self, other: Platform) -> bool:
        """Whether both are one platform, written differently perhaps."""
        mine, theirs = (
            (one.os, one.architecture, _variant(one.architecture, one.variant))
            for one in (self, other)
        )
        return mine == theirs

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def _variant(architecture: str, variant: str) -> str:
    """In containerd's normal form."""
    if architecture == "arm":
        return variant or "v7"
    return "" if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")) else variant


def _runs(architecture: str, variant: str) -> list[tuple[str, str]]:
    """The architectures and variants that a CPU runs, its own first."""
    variant = _variant(architecture, variant)
    runs = [(architecture, variant)]
    newest = int(variant[1:]) if re.fullmatch("v[1-9]", variant) else 0
    if architecture == "amd64":
        older = (f"v{number}" for number in range(newest - 1, 0, -1))
        runs += [(architecture, _variant(architecture, name)) for name in older]
        runs.append(("386", ""))
    elif architecture == "arm":
        runs += [(architecture, f"v{number}") for number in range(newest - 1, 4, -1)]
    elif architecture == "arm64":
        runs += [("arm", f"v{number}") for number in range(8, 4, -1)]
    return runs


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Docker's ``X-Registry-Auth``, decoded."""

    username: str = ""
    password: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a pull, push or load; compat_api makes Docker's JSON of it.

    ``current`` and ``total`` are None where the line has no ``progressDetail``. ``aux`` is the push
    result's object. ``stream`` is set on the lines that Docker sends as ``{"stream": ...}`` (load).
    """

    status: str = ""
    id: str = ""
    current: int | None = None
    total: int | None = None
    aux: Mapping[str, str | int] | None = None
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Healthcheck:
    test: tuple[str, ...] = ()
    interval: int = 0  # nanoseconds, 0: inherited or default, as all of these
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What a container of the image inherits; ``None`` is Docker's JSON ``null``."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    args_escaped: bool = False


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    created: str | None = None  # RFC 3339, as the image has it
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """A row of ``docker history``, newest first."""

    id: str  # the image's id on the newest row, "<missing>" on the others
    created: str | None
    created_by: str
    comment: str
    size: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    id: str  # sha256:<digest of the configuration>
    repo_tags: tuple[str, ...]  # familiar form, as clients see them
    repo_digests: tuple[str, ...]
    platform: Platform
    config: ImageConfig
    history: tuple[HistoryEntry, ...]
    diff_ids: tuple[str, ...]
    chain_ids: tuple[str, ...]
    size: int
    created: str | None  # RFC 3339, as the image has it
    author: str
    comment: str
    docker_version: str
    parent: str  # "" unless built here
    last_tagged: int  # ns since 1970, 0: never

    @property
    def top_layer(self) -> str | None:
        return self.chain_ids[-1] if self.chain_ids else None


@dataclass(frozen=True, slots=True)
class PulledImage:
    image: Image
    reference: str  # familiar
    digest: str  # of the manifest, or of the index it came from
    newer: bool  # False: the image was up to date


@dataclass(frozen=True, slots=True)
class PushedImage:
    tag: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """What a reference is in its registry."""

    media_type: str
    digest: str
    size: int
    platforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """One record of an image's removal: exactly one of the two is set."""

    untagged: str = ""
    deleted: str = ""


@dataclass(frozen=True, slots=True)
class Pruned:
    removed: tuple[Removal, ...]
    space_reclaimed: int


@dataclass(frozen=True, slots=True)
class Use:
    """A container that uses an image."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class DiskUsage:
    layers_size: int
    image_sizes: Mapping[str, int]
    shared_sizes: Mapping[str, int]  # by image id: the part that other images have too


@dataclass(frozen=True, slots=True)
class Mount:
    """An OCI mount: the members of config.json's ``mounts``."""

    type: str
    source: str
    destination: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A layer that the worker unpacked, or found to be there."""

    chain_id: str
    diff_id: str
    parent: str | None
    size: int  # of its files
    blob: str  # digest of the layer as it was transferred
    blob_size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image that the worker brought; lifecycle's transaction makes it exist."""

    id: str
    layers: tuple[LayerRecord, ...]
    manifest: str = ""  # digest, if its bytes are in the content store
    index: str = ""  # digest of the index the manifest came from
    references: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> ImageRecord:
        """The record whose ``asdict`` crossed the channel."""
        layers = tuple(LayerRecord(**layer) for layer in members["layers"])
        return cls(
            id=members["id"],
            layers=layers,
            manifest=members["manifest"],
            index=members["index"],
            references=tuple(members["references"]),
        )
