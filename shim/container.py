"""Library: what the shim asks of an OCI runtime.

native.py answers it with the functions of runtime/, external.py with another runtime's command. All
calls are synchronous: the shim has one container, and its output waits in pipes meanwhile.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from common import endpoint, netlink
from common.endpoint import Endpoint
from runtime.cgroups import OOMWatch
from runtime.errors import RuntimeFailure
from runtime.spec import Process, Resources

Descriptors = tuple[int, int, int]  # for a process' stdin, stdout, stderr


@dataclass(frozen=True, slots=True)
class Started:
    """A process that exists; ``pidfd`` and ``console`` belong to the caller."""

    pid: int
    pidfd: int
    console: int | None


class Container(Protocol):
    def terminal(self) -> bool:
        """Whether the container's own process has one; asked once, and first."""

    def create(self, stdio: Descriptors | None) -> Started: ...
    def start(self) -> None: ...
    def exec(self, process: Process, stdio: Descriptors | None) -> Started: ...
    def signal(self, number: int, *, everyone: bool) -> None: ...
    def kill_all(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def update(self, resources: Resources) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def oom_kill_count(self) -> int: ...
    def watch_oom(self) -> OOMWatch | None: ...

    def delete(self) -> None:
        """Remove all that create made; also after a create that failed half-way."""


@contextmanager
def network_failure() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        # The text names the link or the request; the number alone would not help anybody.
        message = f"unable to set up the network: {e.strerror}"
        raise RuntimeFailure("network", message, errno=e.errno or 0) from e


def plug(pid: int, endpoints: Sequence[Endpoint], broker: str) -> None:
    """``broker`` is lifecycle's socket, where it has interfaces of plugins to plug itself."""
    with network_failure():
        endpoint.plug_all(pid, endpoints)
        if broker:
            have_plugged(pid, broker)


def have_plugged(pid: int, broker: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(broker)
        client.sendall(orjson.dumps({"pid": pid}) + b"\n")
        with client.makefile("rb") as file:
            answer = file.readline()
    if not answer:
        raise OSError(errno.EPIPE, "lifecycle died")
    failure = orjson.loads(answer).get("error")
    if failure:
        raise RuntimeFailure("network", str(failure))


def interface_counters(pid: int) -> list[netlink.Counters]:
    """The traffic of the container's interfaces; none once it is gone."""
    try:
        return endpoint.counters(pid)
    except OSError:
        return []
