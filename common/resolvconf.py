"""Library: the host's resolv.conf.

Lifecycle writes containers' files from it, and the resolvers in the shims ask the servers in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
# Where systemd-resolved keeps the servers that it asks itself.
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
SYSTEMD_STUB = "127.0.0.53"
DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """A host's file, parsed."""

    source: str = ""
    servers: tuple[str, ...] = ()
    invalid_servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def read_host(path: Path = HOST_RESOLV_CONF, systemd: Path = SYSTEMD_RESOLV_CONF) -> ResolvConf:
    """The host's file; the one behind it where that only names systemd-resolved's stub."""
    found = _read(path)
    if found.servers == (SYSTEMD_STUB,):
        behind = _read(systemd)
        return behind if behind.source else found
    return found


def _read(path: Path) -> ResolvConf:
    try:
        return parse(path.read_text(errors="replace"), str(path))
    except FileNotFoundError:
        return ResolvConf()


def parse(text: str, source: str) -> ResolvConf:
    servers: list[str] = []
    invalid: list[str] = []
    search: list[str] = []
    options: list[str] = []
    other: list[str] = []
    for line in text.splitlines():
        word, *values = line.split() or ("#",)
        if word[0] in "#;":
            continue
        if word not in ("nameserver", "search", "domain", "options"):
            other.append(line)
        elif not values:
            continue
        elif word == "nameserver":
            (servers if _is_address(values[0]) else invalid).append(values[0])
        elif word == "options":
            options += values
        else:
            search = values  # the last one counts
    return ResolvConf(
        source, tuple(servers), tuple(invalid), tuple(search), tuple(options), tuple(other)
    )


def upstream_servers(host: ResolvConf, wanted: Sequence[str]) -> list[tuple[str, bool]]:
    """Whom the internal resolver asks, and whether it has to do so from the host's namespace."""
    if wanted:
        return [(server, False) for server in wanted]
    if not host.servers:
        return [(server, False) for server in DEFAULT_SERVERS]
    return [(server, not usable_inside(server)) for server in host.servers]


def usable_inside(server: str) -> bool:
    """A loopback of the host is not the container's, and it has no IPv6 there."""
    address = ip_address(server)
    return not address.is_loopback and not isinstance(address, IPv6Address)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
