"""Library of lifecycle: legacy links of the default bridge (``--link``).

A container's record keeps each as ``<id of the other>:<alias>``. At a start they become lines of
/etc/hosts and environment variables; when the other one starts anew, the lines of the running
containers that are linked to it are written again. On a network of the user's own, links are
aliases of its resolver, and none of this applies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.errors import InternalError, InvalidArgument, NotFound
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, ContainerTable
from lifecycle.netfiles import HostsLine
from networking.ports import parse_container_port

BRIDGE = "bridge"
BUILT_IN_MODES = frozenset((BRIDGE, "default", "none", "host"))


@dataclass(frozen=True, slots=True)
class Link:
    alias: str
    child: Container


def resolve(containers: ContainerTable, host: pb.HostConfig) -> None:
    """Check the links of a container to be created, and keep the others' ids."""
    if host.network_mode not in BUILT_IN_MODES:
        host.ClearField("links")
        return
    resolved = []
    for text in host.links.values:
        name, alias = _parse(text)
        child = _find(containers, name)
        while (mode := child.record.host_config.network_mode).startswith("container:"):
            child = _find(containers, mode.removeprefix("container:"))
        if mode == "host":
            raise InvalidArgument(
                "conflicting options: host type networking can't be used with links. "
                "This would result in undefined behavior"
            )
        resolved.append(f"{child.id}:{alias}")
    host.ClearField("links")
    if resolved:
        host.links.values[:] = resolved


def _parse(text: str) -> tuple[str, str]:
    if not text:
        raise InternalError("empty string specified for links")
    name, _, alias = text.partition(":")
    if ":" in alias:
        raise InternalError(f"bad format for links: {text}")
    if name.startswith("/"):  # as inspect shows it: "/child:/parent/alias"
        return name[1:], alias.rpartition("/")[2]
    return name, alias or name


def _find(containers: ContainerTable, name: str) -> Container:
    try:
        return containers.find(name)
    except NotFound as error:
        raise InvalidArgument(f"could not get container for {name}: {error}") from error


def of(containers: ContainerTable, record: pb.Container) -> Iterator[Link]:
    """A container's links whose other side still exists."""
    for text in record.host_config.links.values:
        child_id, _, alias = text.partition(":")
        child = containers.get(child_id)
        if child is not None:
            yield Link(alias, child)


def shown(containers: ContainerTable, record: pb.Container) -> list[str]:
    """``/child:/parent/alias``, as inspect has them."""
    return [f"/{link.child.name}:/{record.name}/{link.alias}" for link in of(containers, record)]


def check(containers: ContainerTable, record: pb.Container) -> None:
    """At a start: the others run, and are on the default bridge."""
    for link in of(containers, record):
        if not link.child.has_process:
            raise InternalError(
                f"Cannot link to a non running container: /{link.child.name} "
                f"AS /{record.name}/{link.alias}"
            )
        if not _address(link.child.record):
            raise InternalError(f"container {link.child.id} not attached to default bridge network")


def hosts(containers: ContainerTable, record: pb.Container) -> list[HostsLine]:
    lines = []
    for link in of(containers, record):
        child = link.child.record
        names = [link.alias, child.config.hostname]
        if child.name != link.alias:
            names.append(child.name)
        if address := _address(child):
            lines.append(HostsLine(address, tuple(names)))
    return lines


def environment(containers: ContainerTable, record: pb.Container) -> list[str]:
    """The variables of all links (moby daemon/links/links.go, ToEnv)."""
    return [
        variable
        for link in of(containers, record)
        for variable in _variables(record, link.alias, link.child.record)
    ]


async def remove(containers: ContainerTable, name: str) -> None:
    """``DELETE /containers/parent/alias?link=1``: only the link, not the container."""
    parent_name, _, alias = name.removeprefix("/").rpartition("/")
    if not parent_name:
        raise InternalError("Conflict, cannot remove the default link name of the container")
    try:
        parent = containers.find(parent_name)
    except NotFound as error:
        raise InternalError(f"Cannot get parent /{parent_name} for link name /{name}") from error
    async with parent.lock:
        values = parent.record.host_config.links.values
        kept = [text for text in values if text.partition(":")[2] != alias]
        if len(kept) == len(values):
            raise NotFound(f"No such container: {name}")
        values[:] = kept
        if not kept:
            parent.record.host_config.ClearField("links")
        containers.save(parent)


def linked_to(containers: Iterable[Container], child_id: str) -> Iterator[Container]:
    """The containers that run and have a link to ``child_id``."""
    prefix = f"{child_id}:"
    for container in containers:
        values = container.record.host_config.links.values
        if container.has_process and any(text.startswith(prefix) for text in values):
            yield container


def _address(record: pb.Container) -> str:
    return next((item.ip_address for item in record.endpoints if item.network == BRIDGE), "")


def _variables(record: pb.Container, alias: str, child: pb.Container) -> Iterator[str]:
    name = alias.upper().replace("-", "_")
    address = _address(child)
    ports = sorted(
        map(parse_container_port, child.config.exposed_ports.values),
        key=lambda port: (port[1] != "tcp", port[1], port[0]),
    )
    if ports:
        number, proto = ports[0]
        yield f"{name}_PORT={proto}://{address}:{number}"
    for first, last, proto in _ranges(ports):
        for number in range(first, last + 1):
            prefix = f"{name}_PORT_{number}_{proto.upper()}"
            yield f"{prefix}={proto}://{address}:{number}"
            yield f"{prefix}_ADDR={address}"
            yield f"{prefix}_PORT={number}"
            yield f"{prefix}_PROTO={proto}"
        if first != last:
            prefix = f"{name}_PORT_{first}_{proto.upper()}"
            yield f"{prefix}_START={proto}://{address}:{first}"
            yield f"{prefix}_PORT_START={first}"
            yield f"{prefix}_END={proto}://{address}:{last}"
            yield f"{prefix}_PORT_END={last}"
    yield f"{name}_NAME=/{record.name}/{alias}"
    for entry in child.config.env.values:
        variable, equals, value = entry.partition("=")
        if equals and variable not in ("HOME", "PATH"):
            yield f"{name}_ENV_{variable}={value}"


def _ranges(ports: Iterable[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Consecutive ports of one protocol: first, last, protocol."""
    found: list[tuple[int, int, str]] = []
    for number, proto in ports:
        if found and found[-1][1:] == (number - 1, proto):
            found[-1] = (found[-1][0], number, proto)
        else:
            found.append((number, number, proto))
    return found
