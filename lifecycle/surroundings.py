"""Library of lifecycle: what a start takes from the engine and from other containers.

The shim and the runtime get it as config.json (spec.py) and as fields of the shim's start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from common.errors import InternalError, InvalidArgument
from lifecycle import (
    apparmor,
    attachment,
    init_program,
    joined,
    links,
    mountpoints,
    remap,
    security,
    spec,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.containers_pb2 import Ulimit
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.runtimes import find_runtime

DEFAULT_CGROUP_PARENT = "/longshore"


def gather(engine: Engine, container: Container, staged: Mapping[str, str]) -> spec.Surroundings:
    record = container.record
    options = engine.options
    host = record.host_config
    mapping = remap.of(engine.remap, host)
    remap.check(engine.remap, host)
    chosen = security.parse(host.security_opt.values)
    record.apparmor_profile = apparmor.profile_for(chosen.apparmor, privileged=host.privileged)
    remap.refuse_writable_cgroups(engine.remap, asked=chosen.writable_cgroups is not None)
    _refuse_device_requests(host)
    _check_resolvers(host)
    links.check(engine.containers, record)
    if host.network_mode.startswith("container:"):
        _take_names(record, joined.network_container(engine.containers, host.network_mode).record)
    return spec.Surroundings(
        mounts=mountpoints.oci_mounts(record, staged, mapping, engine.volumes.has_own_files),
        files=attachment.files(engine, container),
        namespaces=joined.namespaces(engine.containers, host, mapped=mapping is not None),
        shm_path=joined.shm_path(engine.containers, host),
        cgroup_version=engine.cgroup_version,
        remap=mapping,
        hostname=record.config.hostname,
        link_environment=links.environment(engine.containers, record),
        no_new_privileges=security.no_new_privileges(host, default=options.no_new_privileges),
        writable_cgroups=(
            host.privileged if chosen.writable_cgroups is None else chosen.writable_cgroups
        ),
        apparmor=apparmor.applied(record.apparmor_profile),
        init_path=_init_path(engine, host),
        default_ulimits=[
            Ulimit(name=limit.name, soft=limit.soft, hard=limit.hard)
            for limit in options.default_ulimits
        ],
        cgroup_parent=options.cgroup_parent or DEFAULT_CGROUP_PARENT,
    )


def _check_resolvers(host: pb.HostConfig) -> None:
    for server in host.dns.values:
        try:
            ip_address(server)
        except ValueError:
            raise InternalError(
                f'bad nameserver address {server}: ParseAddr("{server}"): unable to parse IP'
            ) from None


def _take_names(record: pb.Container, other: pb.Container) -> None:
    """Who joins another's network has its name and its files below /etc."""
    record.config.hostname = other.config.hostname
    record.config.domainname = other.config.domainname
    record.resolv_conf_path = f"{other.directory}/resolv.conf"
    record.hostname_path = f"{other.directory}/hostname"
    record.hosts_path = f"{other.directory}/hosts"


def _refuse_device_requests(host: pb.HostConfig) -> None:
    """No device driver is there, so that none can be selected."""
    for request in host.resources.device_requests:
        sets = " ".join(f"[{' '.join(names.values)}]" for names in request.capabilities)
        raise InternalError(
            f'could not select device driver "{request.driver}" with capabilities: [{sets}]'
        )


def _init_path(engine: Engine, host: pb.HostConfig) -> str:
    wanted = host.init if host.HasField("init") else engine.options.init
    if not wanted:
        return ""
    path = engine.options.init_path
    if not path:
        return os.fspath(init_program.install(engine.paths.data_root))
    if not os.path.exists(path):
        raise InvalidArgument(f"the init program {path} of --init-path does not exist")
    return path


def rootfs_mounts(engine: Engine, container: Container) -> list[dict[str, Any]]:
    mapping = remap.of(engine.remap, container.record.host_config)
    return [
        {
            **(mapping.mappings if mapping else {}),
            "type": mount.type,
            "source": mount.source,
            "destination": mount.destination,
            "options": list(mount.options),
        }
        for mount in engine.images.container_mounts(container.id)
    ]


def seccomp(engine: Engine, host: pb.HostConfig) -> str | None:
    found = security.filter_for(host, engine.paths.seccomp, engine.options.seccomp_profile)
    return None if found is None else os.fspath(found)


def runtime(engine: Engine, name: str) -> list[str] | None:
    found = find_runtime(engine.options, name)
    return None if found is None else [found.path, *found.arguments]
