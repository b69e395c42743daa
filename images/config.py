"""Library: image configurations (OCI's and Docker's JSON are the same), read and written.

A configuration comes from a registry or an archive and is hostile: every member's type is checked,
and what does not fit is an error that names it. Used by lifecycle to show images and by the worker
to check what it transfers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from common.errors import InvalidArgument
from images.model import Healthcheck, HistoryEntry, ImageConfig, Platform

LAYERS_LIMIT = 512  # Docker's is 127; overlayfs's 500
_DIFF_ID = re.compile(r"sha256:[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Configuration:
    platform: Platform
    config: ImageConfig
    diff_ids: tuple[str, ...]
    history: tuple[HistoryEntry, ...]
    created: str | None
    author: str
    comment: str
    docker_version: str


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """OCI image-spec: the identity of each layer together with all below it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            joined = f"{chain[-1]} {diff_id}".encode()
            chain.append(f"sha256:{hashlib.sha256(joined).hexdigest()}")
        else:
            chain.append(diff_id)
    return tuple(chain)


def load_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"invalid {what}: {e}") from e
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid {what}: not a JSON object")
    return value


def parse(data: bytes) -> Configuration:
    root = load_object(data, "image configuration")
    rootfs = member(root, "rootfs", dict, {})
    diff_ids = strings(rootfs, "diff_ids")
    for diff_id in diff_ids:
        if not _DIFF_ID.fullmatch(diff_id):
            raise InvalidArgument(f"invalid image configuration: diff id {diff_id[:80]!r}")
    if len(diff_ids) > LAYERS_LIMIT:
        raise InvalidArgument(f"invalid image configuration: more than {LAYERS_LIMIT} layers")
    return Configuration(
        platform=Platform(
            member(root, "os", str, "linux") or "linux",
            member(root, "architecture", str, ""),
            member(root, "variant", str, ""),
            member(root, "os.version", str, ""),
        ),
        config=_config(member(root, "config", dict, {})),
        diff_ids=diff_ids,
        history=tuple(_history(item) for item in member(root, "history", list, [])),
        created=member(root, "created", str, "") or None,
        author=member(root, "author", str, ""),
        comment=member(root, "comment", str, ""),
        docker_version=member(root, "docker_version", str, ""),
    )


def member(values: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
    """``values[key]`` if it is there, not null, and of the type that it must be."""
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidArgument(f"invalid JSON: {key!r} is not of type {kind.__name__}")
    return value


def strings(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    items = member(values, key, list, [])
    if not all(isinstance(item, str) for item in items):
        raise InvalidArgument(f"invalid JSON: {key!r} is not a list of strings")
    return tuple(items)


def _nullable_strings(values: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    return None if values.get(key) is None else strings(values, key)


def _labels(values: Mapping[str, Any]) -> dict[str, str] | None:
    if values.get("Labels") is None:
        return None
    labels = member(values, "Labels", dict, {})
    if not all(isinstance(value, str) for value in labels.values()):
        raise InvalidArgument("invalid JSON: 'Labels' is not a map of strings")
    return labels


def _config(values: Mapping[str, Any]) -> ImageConfig:
    return ImageConfig(
        user=member(values, "User", str, ""),
        exposed_ports=tuple(member(values, "ExposedPorts", dict, {})),
        # An entry without "=" would make Docker's clients import the daemon's own value.
        env=tuple(item for item in strings(values, "Env") if "=" in item),
        entrypoint=_nullable_strings(values, "Entrypoint"),
        cmd=_nullable_strings(values, "Cmd"),
        volumes=tuple(member(values, "Volumes", dict, {})),
        working_dir=member(values, "WorkingDir", str, ""),
        labels=_labels(values),
        stop_signal=member(values, "StopSignal", str, ""),
        stop_timeout=values["StopTimeout"] if isinstance(values.get("StopTimeout"), int) else None,
        healthcheck=_healthcheck(values),
        on_build=strings(values, "OnBuild"),
        shell=strings(values, "Shell"),
        args_escaped=member(values, "ArgsEscaped", bool, False),
    )


def _healthcheck(values: Mapping[str, Any]) -> Healthcheck | None:
    if values.get("Healthcheck") is None:
        return None
    health = member(values, "Healthcheck", dict, {})
    return Healthcheck(
        test=strings(health, "Test"),
        interval=member(health, "Interval", int, 0),
        timeout=member(health, "Timeout", int, 0),
        start_period=member(health, "StartPeriod", int, 0),
        start_interval=member(health, "StartInterval", int, 0),
        retries=member(health, "Retries", int, 0),
    )


def _history(item: object) -> HistoryEntry:
    if not isinstance(item, dict):
        raise InvalidArgument("invalid image configuration: a history entry is not an object")
    return HistoryEntry(
        created=member(item, "created", str, "") or None,
        created_by=member(item, "created_by", str, ""),
        author=member(item, "author", str, ""),
        comment=member(item, "comment", str, ""),
        empty_layer=member(item, "empty_layer", bool, False),
    )


def config_json(config: ImageConfig) -> dict[str, Any]:
    """The ``config`` member, with the keys and the order that Docker writes."""
    health = config.healthcheck
    members: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": list(config.env),
        "Cmd": None if config.cmd is None else list(config.cmd),
        "Healthcheck": None if health is None else _healthcheck_json(health),
        "ArgsEscaped": config.args_escaped,
        "Volumes": {volume: {} for volume in config.volumes},
        "WorkingDir": config.working_dir,
        "Entrypoint": None if config.entrypoint is None else list(config.entrypoint),
        "OnBuild": list(config.on_build),
        "Labels": None if config.labels is None else dict(config.labels),
        "StopSignal": config.stop_signal,
        "StopTimeout": config.stop_timeout,
        "Shell": list(config.shell),
    }
    kept = ("Cmd", "Entrypoint", "Labels", "StopTimeout")
    return {
        key: value
        for key, value in members.items()
        if (value is not None if key in kept else bool(value))
    }


def _healthcheck_json(health: Healthcheck) -> dict[str, Any]:
    members = {
        "Test": list(health.test),
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
        "Retries": health.retries,
    }
    return {key: value for key, value in members.items() if value}


def serialize(configuration: Configuration) -> bytes:
    """The bytes whose sha256 is the new image's id."""
    platform = configuration.platform
    root: dict[str, Any] = {
        "architecture": platform.architecture,
        "author": configuration.author,
        "comment": configuration.comment,
        "config": config_json(configuration.config),
        "created": configuration.created,
        "docker_version": configuration.docker_version,
        "history": [_history_json(entry) for entry in configuration.history],
        "os": platform.os,
        "os.version": platform.os_version,
        "rootfs": {"type": "layers", "diff_ids": list(configuration.diff_ids)},
        "variant": platform.variant,
    }
    kept = ("config", "rootfs")
    members = {key: value for key, value in root.items() if value or key in kept}
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def with_diff_ids(data: bytes, diff_ids: Sequence[str]) -> bytes:
    """A configuration of ours with the layers that were not known when it was made."""
    root = load_object(data, "image configuration")
    root["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    return json.dumps(root, separators=(",", ":"), ensure_ascii=False).encode()


def _history_json(entry: HistoryEntry) -> dict[str, Any]:
    members = {
        "created": entry.created,
        "created_by": entry.created_by,
        "author": entry.author,
        "comment": entry.comment,
        "empty_layer": entry.empty_layer,
    }
    return {key: value for key, value in members.items() if value}
