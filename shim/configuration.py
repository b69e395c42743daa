"""Library: what a container is created from, read from the files that lifecycle wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from runtime import spec
from shim.request import CreationRequest

DEFAULT_CGROUP_PARENT = "/longshore"


def read(container_id: str, request: CreationRequest) -> spec.Spec:
    """The bundle's config.json, with a cgroup of its own where it names none."""
    parsed = spec.parse((request.bundle / "config.json").read_bytes())
    if parsed.linux.cgroups_path:
        return parsed
    path = f"{request.cgroup_parent or DEFAULT_CGROUP_PARENT}/{container_id}"
    return replace(parsed, linux=replace(parsed.linux, cgroups_path=path))


def seccomp(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None
