"""Library: what the engine was started with, as longshored hands it to lifecycle.

longshored parses dockerd's flags and its configuration file into one ``EngineOptions``, and starts
``longshore-lifecycle --data-root X --exec-root Y --options-fd N``; lifecycle reads the JSON object
from descriptor N until its end. Defaults are dockerd's. ``None`` means that nothing was given and
that the engine decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class AddressPool:
    base: str  # CIDR that networks are cut from
    size: int  # prefix length of each


@dataclass(frozen=True, slots=True)
class RuntimeOption:
    name: str
    path: str  # command
    arguments: tuple[str, ...] = ()  # before the subcommand


@dataclass(frozen=True, slots=True)
class UlimitOption:
    name: str  # "nofile"
    soft: int  # -1: unlimited
    hard: int  # likewise


@dataclass(frozen=True, slots=True)
class EngineOptions:
    # The default bridge network.
    bridge: str | None = None  # an existing bridge, or "none"; absent: docker0 is made
    bip: str | None = None  # address and prefix of docker0
    bip6: str | None = None
    fixed_cidr: str | None = None  # part of the subnet that addresses are given from
    fixed_cidr_v6: str | None = None
    default_gateway: str | None = None
    default_gateway_v6: str | None = None
    default_address_pools: tuple[AddressPool, ...] = ()  # none: dockerd's own list
    default_network_options: dict[str, dict[str, str]] = field(default_factory=dict)  # by driver
    mtu: int | None = None
    inter_container: bool = True  # --icc
    default_bind_address: str = "0.0.0.0"  # --ip, for published ports
    ip_forward: bool = True
    ip_masquerade: bool = True
    iptables: bool = True  # any firewall rules, though ours are not made by iptables
    ip6tables: bool = True
    ipv6: bool = False
    userland_proxy: bool = True
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    host_gateway_ips: tuple[str, ...] = ()  # none: the default bridge's address
    # Containers.
    runtimes: tuple[RuntimeOption, ...] = ()  # besides the built-in one
    default_runtime: str | None = None  # absent: the built-in one
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    shutdown_timeout: int = 15  # seconds
    default_shm_size: int = 64 << 20
    default_ulimits: tuple[UlimitOption, ...] = ()
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str | None = None  # absent: private on v2, host on v1
    cgroup_parent: str | None = None
    seccomp_profile: str | None = None  # a path, "builtin" or "unconfined"; absent: builtin
    no_new_privileges: bool = False
    init: bool = False
    init_path: str | None = None
    userns_remap: str | None = None  # "default", or user[:group]; absent: ids are the host's
    # Images.
    registry_mirrors: tuple[str, ...] = ()  # URLs
    insecure_registries: tuple[str, ...] = ()  # hosts and CIDRs
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    storage_driver: str | None = None
    storage_options: tuple[str, ...] = ()  # "name=value"
    # The engine.
    labels: tuple[str, ...] = ()  # "name=value"
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises TypeError for a key that this version does not know."""
        values: dict[str, Any] = json.loads(data)
        for name, value in values.items():
            if isinstance(value, list):
                element = _ELEMENTS.get(name, _unchanged)
                values[name] = tuple(element(item) for item in value)
        return cls(**values)


def _unchanged(item: str) -> str:
    return item


def _runtime(item: dict[str, Any]) -> RuntimeOption:
    return RuntimeOption(item["name"], item["path"], tuple(item["arguments"]))


_ELEMENTS: dict[str, Callable[[Any], Any]] = {
    "default_address_pools": lambda item: AddressPool(**item),
    "runtimes": _runtime,
    "default_ulimits": lambda item: UlimitOption(**item),
}
