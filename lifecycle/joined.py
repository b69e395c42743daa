"""Library of lifecycle: namespaces that a container shares with another (``container:<name>``)."""

from __future__ import annotations

from common.errors import Conflict, InternalError, InvalidArgument, NotFound
from lifecycle import status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, ContainerTable

_PREFIX = "container:"


def resolve(containers: ContainerTable, host: pb.HostConfig) -> None:
    """At create: keep the ids of the others, so that they can be renamed.

    A network's container may be missing until the start; a missing other one is an error.
    """
    for field in ("pid_mode", "ipc_mode", "network_mode"):
        mode = getattr(host, field)
        if not mode.startswith(_PREFIX):
            continue
        try:
            other = containers.find(mode.removeprefix(_PREFIX))
        except NotFound as error:
            if field == "network_mode" or mode == _PREFIX:
                continue
            raise InvalidArgument(str(error)) from error
        setattr(host, field, _PREFIX + other.id)


def namespaces(
    containers: ContainerTable, host: pb.HostConfig, *, mapped: bool = False
) -> dict[str, str]:
    """OCI namespace type to path, at a start; raises Docker's errors.

    A container with ``mapped`` ids needs the user namespace that owns what it joins; of several it
    is the last one's, as in Docker.
    """
    joined = {}
    for kind, name, mode, find in (
        ("network", "net", host.network_mode, network_container),
        ("ipc", "ipc", host.ipc_mode, _ipc_container),
        ("pid", "pid", host.pid_mode, _pid_container),
    ):
        if mode.startswith(_PREFIX):
            pid = find(containers, mode).record.state.pid
            joined[kind] = f"/proc/{pid}/ns/{name}"
            if mapped:
                joined["user"] = f"/proc/{pid}/ns/user"
    return joined


def shm_path(containers: ContainerTable, host: pb.HostConfig) -> str:
    """The other's /dev/shm where the IPC namespace is another container's."""
    if not host.ipc_mode.startswith(_PREFIX):
        return ""
    return f"/proc/{_ipc_container(containers, host.ipc_mode).record.state.pid}/root/dev/shm"


def network_container(containers: ContainerTable, mode: str) -> Container:
    try:
        other = containers.find(mode.removeprefix(_PREFIX))
    except NotFound as error:
        raise InternalError(f"joining network namespace of container: {error}") from error
    if not other.has_process:
        raise Conflict(
            "cannot join network namespace of a non running container: container "
            f"{other.name} is {status.NAMES[other.status]}"
        )
    if other.status == status.RESTARTING:
        raise Conflict(f"cannot join network of a non running container: {other.id}")
    return other


def _pid_container(containers: ContainerTable, mode: str) -> Container:
    reference = mode.removeprefix(_PREFIX)
    try:
        other = containers.find(reference)
    except NotFound as error:
        raise InvalidArgument(f"failed to join PID namespace: {error}") from error
    if not other.has_process:
        raise InternalError(f"failed to join PID namespace: container {other.id} is not running")
    return other


def _ipc_container(containers: ContainerTable, mode: str) -> Container:
    reference = mode.removeprefix(_PREFIX)
    what = "failed to join IPC namespace: "
    if not reference:
        raise InvalidArgument(f'{what}invalid name or ID supplied: ""')
    try:
        other = containers.find(reference)
    except NotFound as error:
        raise InvalidArgument(f"{what}{error}") from error
    if not other.has_process:
        raise Conflict(f"{what}container {other.id} is not running")
    if other.record.host_config.ipc_mode in ("private", "none"):
        raise InvalidArgument(
            f"{what}container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the "
            "donor container)"
        )
    return other
