"""Library: what a container's resolver is told; lifecycle makes it, the shim obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ADDRESS = "127.0.0.11"  # Docker's, which images and clients know


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    directory: str  # of its names, see common/namefiles.py
    name: str  # "web.<name>" is the container web on this network
    links: Mapping[str, str] = field(default_factory=dict)  # alias → the name that it stands for


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    networks: tuple[NamedNetwork, ...]
    servers: tuple[str, ...] = ()  # none: those of the host, which is looked at again and again
    has_ipv6: bool = False  # the container can reach servers by IPv6
    forwards: bool = True  # False: no network leads outside, so the host asks nobody for it
    # The user wants search domains to be tried first: names without a dot stay inside.
    keeps_plain_names: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResolverConfig:
        networks = tuple(NamedNetwork(**network) for network in data["networks"])
        return cls(**{**data, "networks": networks, "servers": tuple(data["servers"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
