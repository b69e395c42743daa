"""Library: the fields of the shim's operations, checked once and turned into dataclasses.

What comes from lifecycle is trusted but not taken for granted: a missing or mistyped field is an
``InvalidArgument`` answer, never an exception in the middle of a start.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.endpoint import Endpoint
from common.errors import InvalidArgument
from common.resolverconfig import ResolverConfig
from runtime import spec
from runtime.jsonfields import InvalidSpec, decode
from shim.attach import AttachOptions
from shim.logfile import LogConfig
from shim.portproxy import PublishedPort
from shim.protocol import Message

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What the shim itself needs to know."""

    stdin_open: bool
    stdin_once: bool
    log: LogConfig
    resolver: ResolverConfig | None  # what the DNS server inside answers; None: there is none
    ports: tuple[PublishedPort, ...]
    runtime: tuple[str, ...]  # another OCI runtime's command, or nothing
    message: Message  # as it came, for whoever creates the container


@dataclass(frozen=True, slots=True)
class CreationRequest:
    """What creating the container takes."""

    bundle: Path
    state_root: Path
    rootfs_mounts: tuple[spec.Mount, ...]
    seccomp_bpf: str | None
    endpoints: tuple[Endpoint, ...] | None  # None: the namespaces are someone else's
    broker: str  # socket of lifecycle, which plugs what plugins give; empty: there is nothing
    cgroup_parent: str


@dataclass(frozen=True, slots=True)
class NetworkChange:
    """A running container's networks become others."""

    endpoint: Endpoint | None  # to plug
    unplug: Endpoint | None
    gateways: tuple[Endpoint, ...]  # which are to have the default routes from now on
    resolver: ResolverConfig | None
    ports: tuple[PublishedPort, ...]  # new ones
    port_targets: tuple[str, ...] | None  # where all ports lead to; none: nowhere, they are freed


def text(message: Message, name: str) -> str:
    return _field(message, name, str)


def number(message: Message, name: str) -> int:
    return _field(message, name, int)


def seconds(message: Message, name: str) -> float:
    """A duration; 0 where it is not given."""
    value = message.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise InvalidArgument(f"{name}: expected seconds, got {value!r}")
    return float(value)


def flag(message: Message, name: str) -> bool:
    value = message.get(name, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name}: expected a bool, got {value!r}")
    return value


def optional_text(message: Message, name: str) -> str | None:
    return None if message.get(name) is None else text(message, name)


def attach_options(message: Message) -> AttachOptions:
    try:
        keys = bytes(message.get("detach_keys") or ())
        early = base64.b64decode(message.get("early") or "", validate=True)
    except (TypeError, ValueError) as e:
        raise InvalidArgument(f"detach_keys, early: {e}") from e
    return AttachOptions(
        stdin=flag(message, "stdin"),
        stdout=flag(message, "stdout"),
        stderr=flag(message, "stderr"),
        framed=flag(message, "framed"),
        detach_keys=keys,
        early=early,
    )


def start(message: Message) -> StartRequest:
    try:
        return StartRequest(
            stdin_open=flag(message, "stdin_open"),
            stdin_once=flag(message, "stdin_once"),
            log=LogConfig(**(message.get("log") or {})),
            resolver=_resolver(message.get("resolver")),
            ports=_ports(message),
            runtime=tuple(map(str, message.get("runtime") or ())),
            message=message,
        )
    except (TypeError, KeyError, AttributeError) as e:
        raise InvalidArgument(f"start: {e!r}") from e


def creation(message: Message) -> CreationRequest:
    try:
        mounts = decode(tuple[spec.Mount, ...], message.get("rootfs_mounts") or [], "rootfs_mounts")
        return CreationRequest(
            bundle=Path(text(message, "bundle")),
            state_root=Path(text(message, "state_root")),
            rootfs_mounts=mounts,
            seccomp_bpf=optional_text(message, "seccomp_bpf"),
            endpoints=_endpoints(message.get("network")),
            broker=str((message.get("network") or {}).get("broker") or ""),
            cgroup_parent=optional_text(message, "cgroup_parent") or "",
        )
    except InvalidSpec as e:
        raise InvalidArgument(str(e)) from e
    except (TypeError, KeyError, AttributeError) as e:
        raise InvalidArgument(f"start: {e!r}") from e


def ports(message: Message) -> tuple[PublishedPort, ...]:
    try:
        return _ports(message)
    except (TypeError, KeyError) as e:
        raise InvalidArgument(f"ports: {e!r}") from e


def change(message: Message) -> NetworkChange:
    try:
        endpoint = message.get("endpoint")
        unplug = message.get("unplug")
        targets = message.get("port_targets")
        return NetworkChange(
            endpoint=Endpoint.from_json(endpoint) if endpoint else None,
            unplug=Endpoint.from_json(unplug) if unplug else None,
            gateways=tuple(map(Endpoint.from_json, message.get("gateways") or ())),
            resolver=_resolver(message.get("resolver")),
            ports=_ports(message),
            port_targets=None if targets is None else tuple(map(str, targets)),
        )
    except (TypeError, KeyError, AttributeError) as e:
        raise InvalidArgument(f"network: {e!r}") from e


def process(message: Message) -> spec.Process:
    try:
        return spec.parse_process(_field(message, "process", dict))
    except InvalidSpec as e:
        raise InvalidArgument(str(e)) from e


def resources(message: Message) -> spec.Resources:
    try:
        return spec.parse_resources(_field(message, "resources", dict))
    except InvalidSpec as e:
        raise InvalidArgument(str(e)) from e


def creation_fields(message: Message) -> Message:
    """What ``creation`` needs of a start message."""
    names = ("bundle", "state_root", "rootfs_mounts", "seccomp_bpf", "network", "cgroup_parent")
    return {name: message.get(name) for name in names}


def _endpoints(network: Any) -> tuple[Endpoint, ...] | None:
    if network is None:
        return None
    return tuple(Endpoint.from_json(each) for each in network["endpoints"])


def _resolver(resolver: Any) -> ResolverConfig | None:
    return None if resolver is None else ResolverConfig.from_json(resolver)


def _ports(message: Message) -> tuple[PublishedPort, ...]:
    return tuple(PublishedPort(**port) for port in message.get("ports") or ())


def _field(message: Message, name: str, kind: type[T]) -> T:
    value = message.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidArgument(f"{name}: expected {kind.__name__}, got {value!r}")
    return value
