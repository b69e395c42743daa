"""Library of lifecycle: ``--userns-remap``: which of the host's ids the containers' users are.

What is on disk is not changed by it: layers, container files and volumes keep the ids that they
have inside, and are mounted with the mapping (runtime/idmaps.py), so that the setting
(remap_setting.py), and a container's ``--userns=host``, can be another at each start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.errors import InternalError, InvalidArgument
from lifecycle._pb import containers_pb2 as pb
from runtime import idmaps
from runtime.spec import IDMapping

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Remap:
    uids: tuple[IDMapping, ...]
    gids: tuple[IDMapping, ...]
    userns_fd: int = -1  # a user namespace that is mapped so, for mounts of the engine's own

    @property
    def root(self) -> tuple[int, int]:
        """Whom the host sees behind the containers' 0:0."""
        return self.uids[0].host_id, self.gids[0].host_id

    @property
    def mappings(self) -> Json:
        """Of a container, or of a mount that shows the engine's files to it."""
        return {"uidMappings": _json(self.uids), "gidMappings": _json(self.gids)}

    @property
    def inverse(self) -> Json:
        """Of a mount that shows the host's files with the ids that the container sees."""
        return {
            "uidMappings": _json(idmaps.inverse(self.uids)),
            "gidMappings": _json(idmaps.inverse(self.gids)),
        }


def _json(mappings: tuple[IDMapping, ...]) -> list[Json]:
    return [
        {"containerID": each.container_id, "hostID": each.host_id, "size": each.size}
        for each in mappings
    ]


def of(remap: Remap | None, host: pb.HostConfig) -> Remap | None:
    """A container's own; any other mode than "host" is private, as in Docker."""
    return None if host.userns_mode == "host" else remap


def check(remap: Remap | None, host: pb.HostConfig) -> None:
    """What a container with a user namespace of its own cannot have (moby daemon_unix.go)."""
    if of(remap, host) is None:
        return
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces.  You must run the container in "
            "the host namespace when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidArgument(
            "cannot share the host's network namespace when user namespaces are enabled"
        )
    if host.pid_mode == "host":
        raise InvalidArgument(
            "cannot share the host PID namespace when user namespaces are enabled"
        )


def refuse_writable_cgroups(remap: Remap | None, *, asked: bool) -> None:
    if remap is not None and asked:
        raise InternalError(
            "option WritableCgroups conflicts with user namespaces and rootless mode"
        )
