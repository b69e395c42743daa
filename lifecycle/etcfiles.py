"""Library of lifecycle: writes the /etc files of a container whose networks are connected.

What they hold is netfiles.py's. They are written at every start, so that they name the addresses of
this run; a reader inside never sees a half-written one, since the container does not run yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from common import resolvconf
from lifecycle import links, netfiles
from lifecycle._pb import containers_pb2 as pb
from lifecycle.engine import Engine
from lifecycle.netfiles import DnsSettings, HostsLine, Resolver
from lifecycle.network_records import EndpointRecord

_MODE = 0o644
_MOST_BYTES = 1 << 20


def write(engine: Engine, record: pb.Container) -> None:
    config, host = record.config, record.host_config
    _write(record, "hostname", netfiles.hostname(config.hostname))
    extra = netfiles.parse_extra_hosts(host.extra_hosts.values, _host_gateways(engine))
    if host.network_mode == "host":
        _write(record, "hosts", netfiles.host_network_hosts(_host_file(), extra))
    else:
        own = own_lines(record, engine.networks.endpoints_of(record.id))
        _write(record, "hosts", netfiles.hosts(extra, links.hosts(engine.containers, record), own))
    _write(record, "resolv.conf", resolv_conf(engine, record))


def own_lines(record: pb.Container, endpoints: Iterable[EndpointRecord]) -> list[HostsLine]:
    names = netfiles.own_names(record.config.hostname, record.config.domainname)
    return [HostsLine(address, names) for endpoint in endpoints for address in endpoint.addresses]


def resolv_conf(engine: Engine, record: pb.Container) -> str:
    endpoints = engine.networks.endpoints_of(record.id)
    if record.host_config.network_mode == "host":
        resolver = Resolver.HOST
    elif any(engine.networks.network_of(one).user_defined for one in endpoints):
        resolver = Resolver.INTERNAL
    else:
        resolver = Resolver.LEGACY
    settings = dns_settings(engine, record.host_config)
    return netfiles.resolv_conf(resolvconf.read_host(), settings, resolver)


def change_hosts(
    record: pb.Container, *, add: Iterable[HostsLine] = (), remove: Iterable[HostsLine] = ()
) -> None:
    """A running container's own addresses have changed; what else it has written there stays."""
    gone = {_format(line) for line in remove}
    lines = [line for line in _read(record, "hosts").splitlines() if line not in gone]
    _write(record, "hosts", "\n".join([*lines, *map(_format, add)]) + "\n")


def change_addresses(record: pb.Container, lines: Iterable[HostsLine]) -> None:
    """Linked containers have started anew, maybe elsewhere; the lines are known by their names."""
    by_names = {" ".join(line.names): line.address for line in lines}
    changed = []
    for line in _read(record, "hosts").splitlines():
        address, tab, names = line.partition("\t")
        changed.append(f"{by_names.get(names, address)}{tab}{names}")
    _write(record, "hosts", "\n".join(changed) + "\n")


def change_resolv_conf(record: pb.Container, before: str, after: str) -> None:
    """Unless somebody inside has changed it."""
    if before != after and _read(record, "resolv.conf") == before:
        _write(record, "resolv.conf", after)


def _format(line: HostsLine) -> str:
    return f"{line.address}\t{' '.join(line.names)}"


def _read(record: pb.Container, name: str) -> str:
    """What is there now: the container may write it, so not without end."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{record.directory}/{name}", flags)
    try:
        return os.read(descriptor, _MOST_BYTES).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def dns_settings(engine: Engine, host: pb.HostConfig) -> DnsSettings:
    """A container's own, else the engine's."""
    options = engine.options
    return DnsSettings(
        tuple(host.dns.values) or options.dns,
        tuple(host.dns_search.values) or options.dns_search,
        tuple(host.dns_options.values) or options.dns_options,
    )


def _host_gateways(engine: Engine) -> Sequence[str]:
    if engine.options.host_gateway_ips:
        return engine.options.host_gateway_ips
    gateway = engine.networks.default_gateway()
    return [gateway] if gateway else []


def _host_file() -> str:
    try:
        with open("/etc/hosts") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(record: pb.Container, name: str, content: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{record.directory}/{name}", flags, _MODE)
    try:
        os.write(descriptor, content.encode(errors="surrogateescape"))
    finally:
        os.close(descriptor)
