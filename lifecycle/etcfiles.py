"""Library of lifecycle: writes the /etc files of a container whose networks are connected.

What they hold is netfiles.py's. They are written at every start, so that they name the addresses of
this run; a reader inside never sees a half-written one, since the container does not run yet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from common import resolvconf
from lifecycle import netfiles
from lifecycle._pb import containers_pb2 as pb
from lifecycle.engine import Engine
from lifecycle.netfiles import DnsSettings, HostsLine, Resolver

_MODE = 0o644


def write(engine: Engine, record: pb.Container) -> None:
    config, host = record.config, record.host_config
    _write(record, "hostname", netfiles.hostname(config.hostname))
    extra = netfiles.parse_extra_hosts(host.extra_hosts.values, _host_gateways(engine))
    settings = dns_settings(engine, host)
    if host.network_mode == "host":
        _write(record, "hosts", netfiles.host_network_hosts(_host_file(), extra))
        resolver = Resolver.HOST
    else:
        names = netfiles.own_names(config.hostname, config.domainname)
        own = [
            HostsLine(endpoint.ip_address, names)
            for endpoint in engine.networks.endpoints_of(record.id)
            if endpoint.ip_address
        ]
        _write(record, "hosts", netfiles.hosts(extra, own=own))
        resolver = Resolver.LEGACY
    found = resolvconf.read_host()
    _write(record, "resolv.conf", netfiles.resolv_conf(found, settings, resolver))


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
        os.write(descriptor, content.encode())
    finally:
        os.close(descriptor)
