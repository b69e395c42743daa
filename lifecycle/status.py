"""Library of lifecycle: a container's status, and which one may follow which.

One enum, one table, one writer. Docker's Running, Paused, Restarting and Dead are read off it in
compat_api. The enum is the wire's (containers.proto), so that there is no second list to keep in
step.
"""

from __future__ import annotations

from common.errors import InternalError
from lifecycle._pb import containers_pb2 as pb

CREATED = pb.CREATED
RUNNING = pb.RUNNING
PAUSED = pb.PAUSED
RESTARTING = pb.RESTARTING
REMOVING = pb.REMOVING
EXITED = pb.EXITED
DEAD = pb.DEAD

_NEXT: dict[pb.Status, frozenset[pb.Status]] = {
    CREATED: frozenset({RUNNING, REMOVING}),
    RUNNING: frozenset({PAUSED, RESTARTING, EXITED}),
    PAUSED: frozenset({RUNNING, RESTARTING, EXITED}),
    RESTARTING: frozenset({RUNNING, EXITED, REMOVING}),
    EXITED: frozenset({RUNNING, RESTARTING, REMOVING}),
    REMOVING: frozenset({DEAD}),
    DEAD: frozenset({REMOVING}),
}

# Docker's words, as filters and lists use them.
NAMES: dict[pb.Status, str] = {
    CREATED: "created",
    RUNNING: "running",
    PAUSED: "paused",
    RESTARTING: "restarting",
    REMOVING: "removing",
    EXITED: "exited",
    DEAD: "dead",
}


def has_process(status: pb.Status) -> bool:
    return status in (RUNNING, PAUSED)


def check(old: pb.Status, new: pb.Status) -> None:
    """Raise InternalError where the engine is about to do what the table forbids."""
    if new not in _NEXT[old]:
        raise InternalError(f"a container cannot go from {NAMES[old]} to {NAMES[new]}")
