"""longshored: what it was started with, checked and put together.

``load`` gives the frozen ``DaemonConfig``: what longshored itself needs, and the
``EngineOptions`` that lifecycle gets. Options of dockerd that this engine does not do are errors
here, not silence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.options import AddressPool, EngineOptions, RuntimeOption, UlimitOption
from common.paths import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, Paths
from compat_api.daemon_flags import ConfigError, Values, merge, parse_flags, read_file
from compat_api.daemon_options import BY_NAME

DEFAULT_FILE = Path("/etc/longshore/daemon.json")
DEFAULT_HOST = "unix:///var/run/docker.sock"
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
# What is meant by each name that Docker has for a driver which this engine has, too.
STORAGE_DRIVERS = {
    "": "",
    "overlay2": "overlay2",
    "overlay": "overlay2",
    "overlayfs": "overlay2",
    "vfs": "vfs",
}


@dataclass(frozen=True, slots=True)
class TlsConfig:
    verify: bool
    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    hosts: tuple[str, ...]
    group: str
    group_given: bool
    paths: Paths
    pidfile: Path
    tls: TlsConfig | None
    allow_plain_tcp: bool  # TCP without TLS on addresses that others reach
    engine: EngineOptions
    warnings: tuple[str, ...]


def load(arguments: Sequence[str]) -> tuple[DaemonConfig, frozenset[str]]:
    """The configuration, and the actions (help, version, validate) asked for."""
    flags, actions = parse_flags(arguments)
    given = flags.pop("config-file", None)
    path = Path(given) if given else DEFAULT_FILE
    values = merge(flags, read_file(path, must_exist=given is not None), path)
    refuse_unsupported(values)
    return build(values), actions


def refuse_unsupported(values: Values) -> None:
    for name, value in values.items():
        option = BY_NAME[name]
        if option.unsupported and value not in option.harmless and value != []:
            raise ConfigError(f"--{option.flag} is not supported: {option.unsupported}")
    for name, value in values.get("features", {}).items():
        if str(value).lower() in ("true", "1"):
            raise ConfigError(f"--feature {name} is not supported: this engine has no features")
    for entry in values.get("exec-opts", []):
        if entry != "native.cgroupdriver=cgroupfs":
            raise ConfigError(
                f"--exec-opt {entry} is not supported: only native.cgroupdriver=cgroupfs is"
            )
    if values.get("storage-driver", "") not in STORAGE_DRIVERS:
        raise ConfigError(
            f"--storage-driver {values['storage-driver']} is not supported: overlay2 and vfs are"
        )


def build(values: Values) -> DaemonConfig:
    check_texts(values)
    values = {**values, "storage-driver": STORAGE_DRIVERS[values.get("storage-driver", "")]}
    warnings = []
    if values.get("live-restore") is False:
        warnings.append("--live-restore=false has no effect: containers outlive this engine")
    paths = Paths(
        absolute(values, "data-root", DEFAULT_DATA_ROOT),
        absolute(values, "exec-root", DEFAULT_EXEC_ROOT),
    )
    return DaemonConfig(
        hosts=tuple(values.get("hosts") or (DEFAULT_HOST,)),
        group=values.get("group", "docker"),
        group_given="group" in values,
        paths=paths,
        pidfile=absolute(values, "pidfile", paths.exec_root / "longshored.pid"),
        tls=tls_config(values),
        allow_plain_tcp=values.get("tls") is False,
        engine=engine_options(values),
        warnings=tuple(warnings),
    )


def absolute(values: Values, name: str, default: Path) -> Path:
    path = Path(values.get(name) or default)
    if not path.is_absolute():
        raise ConfigError(f"--{name} {path} must be an absolute path")
    return path


def tls_config(values: Values) -> TlsConfig | None:
    verify = values.get("tlsverify", False)
    if not (verify or values.get("tls", False)):
        return None
    directory = Path.home() / ".docker"
    return TlsConfig(
        verify=verify,
        ca=Path(values.get("tlscacert", directory / "ca.pem")),
        certificate=Path(values.get("tlscert", directory / "cert.pem")),
        key=Path(values.get("tlskey", directory / "key.pem")),
    )


def check_texts(values: Values) -> None:
    if values.get("log-level", "info") not in LOG_LEVELS:
        raise ConfigError(f"invalid logging level: {values['log-level']}")
    if values.get("log-format", "text") not in ("text", "json"):
        raise ConfigError(f"invalid log format: {values['log-format']}")
    if values.get("default-ipc-mode", "private") not in ("private", "shareable"):
        raise ConfigError(f'IPC mode "{values["default-ipc-mode"]}" is not supported as default')
    if values.get("default-cgroupns-mode", "host") not in ("host", "private"):
        raise ConfigError(
            f'default cgroup namespace mode "{values["default-cgroupns-mode"]}" is invalid'
        )
    for label in values.get("labels", []):
        if not re.fullmatch(r"[^=\s]+=.*", label, re.DOTALL):
            raise ConfigError(f"bad attribute format: {label}")
    for mirror in values.get("registry-mirrors", []):
        if not re.fullmatch(r"https?://[^/?#\s]+/?", mirror):
            raise ConfigError(f'invalid mirror: "{mirror}" must be http(s)://host[:port]')
    check_addresses(values)
    for name in ("mtu", "max-concurrent-downloads", "max-concurrent-uploads"):
        if values.get(name, 0) < 0:
            raise ConfigError(f"invalid {name}: {values[name]}")
    if values.get("icc") is False and values.get("iptables") is False:
        raise ConfigError("--icc=false needs firewall rules, which --iptables=false forbids")


def check_addresses(values: Values) -> None:
    for name in ("default-gateway", "default-gateway-v6", "ip"):
        if values.get(name):
            _parse(ipaddress.ip_address, name, values[name])
    for name in ("dns", "host-gateway-ips"):
        for address in values.get(name, []):
            _parse(ipaddress.ip_address, name, address)
    for name in ("bip", "bip6"):
        if values.get(name):
            _parse(ipaddress.ip_interface, name, values[name])
    for name in ("fixed-cidr", "fixed-cidr-v6"):
        if values.get(name):
            _parse(ipaddress.ip_network, name, values[name])


def _parse(parser: Any, name: str, text: str) -> None:
    try:
        parser(text)
    except ValueError as error:
        raise ConfigError(f"invalid --{name}: {error}") from None


def engine_options(values: Values) -> EngineOptions:
    simple: dict[str, Any] = {
        attribute: values[name]
        for name, attribute in _SAME_VALUE.items()
        if values.get(name) is not None and values.get(name) != ""
    }
    lists: dict[str, Any] = {
        attribute: tuple(values[name]) for name, attribute in _LISTS.items() if values.get(name)
    }
    return EngineOptions(
        **simple,
        **lists,
        runtimes=tuple(runtimes(values)),
        default_ulimits=tuple(
            UlimitOption(name, item["Soft"], item["Hard"])
            for name, item in values.get("default-ulimits", {}).items()
        ),
        default_address_pools=tuple(
            AddressPool(item["base"], item["size"])
            for item in values.get("default-address-pools", [])
        ),
        log_options={key: str(item) for key, item in values.get("log-opts", {}).items()},
        default_network_options=values.get("default-network-opts", {}),
    )


def runtimes(values: Values) -> list[RuntimeOption]:
    found = []
    for name, item in values.get("runtimes", {}).items():
        if not item.get("path"):
            raise ConfigError(f"runtime {name}: path is missing; containerd's shims are not used")
        found.append(RuntimeOption(name, item["path"], tuple(item.get("runtimeArgs") or ())))
    return found


# Options whose value is handed on as it is: name to EngineOptions' attribute.
_SAME_VALUE = {
    "bip": "bip",
    "bip6": "bip6",
    "bridge": "bridge",
    "cgroup-parent": "cgroup_parent",
    "debug": "debug",
    "default-cgroupns-mode": "default_cgroupns_mode",
    "default-gateway": "default_gateway",
    "default-gateway-v6": "default_gateway_v6",
    "default-ipc-mode": "default_ipc_mode",
    "default-runtime": "default_runtime",
    "default-shm-size": "default_shm_size",
    "fixed-cidr": "fixed_cidr",
    "fixed-cidr-v6": "fixed_cidr_v6",
    "icc": "inter_container",
    "init": "init",
    "init-path": "init_path",
    "ip": "default_bind_address",
    "ip-forward": "ip_forward",
    "ip-masq": "ip_masquerade",
    "ip6tables": "ip6tables",
    "iptables": "iptables",
    "ipv6": "ipv6",
    "log-driver": "log_driver",
    "log-format": "log_format",
    "log-level": "log_level",
    "max-concurrent-downloads": "max_concurrent_downloads",
    "max-concurrent-uploads": "max_concurrent_uploads",
    "max-download-attempts": "max_download_attempts",
    "mtu": "mtu",
    "no-new-privileges": "no_new_privileges",
    "seccomp-profile": "seccomp_profile",
    "shutdown-timeout": "shutdown_timeout",
    "storage-driver": "storage_driver",
    "userns-remap": "userns_remap",
    "userland-proxy": "userland_proxy",
}

_LISTS = {
    "dns": "dns",
    "dns-opts": "dns_options",
    "dns-search": "dns_search",
    "host-gateway-ips": "host_gateway_ips",
    "insecure-registries": "insecure_registries",
    "labels": "labels",
    "registry-mirrors": "registry_mirrors",
    "storage-opts": "storage_options",
}
