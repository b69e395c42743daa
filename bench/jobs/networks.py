"""Networks made, removed, connected and disconnected, and a start with many published ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.job import Figures, Job, milliseconds

NAME = "bench-network"
PORTS = 20
NOBODY = "sleep", "100000"


class CreateNetwork(Job):
    name = "network"
    what = "calls to create and to remove a network"
    samples = 10
    target = 0.4

    def measure(self) -> Figures:
        def create() -> None:
            self.endpoint.call("POST", "/networks/create", {"Name": NAME})

        def remove() -> None:
            self.endpoint.call("DELETE", f"/networks/{NAME}")

        created, removed = milliseconds(create), milliseconds(remove)
        return {"": created + removed, "create": created, "remove": removed}


class Connect(Job):
    name = "network-connect"
    what = "calls to connect a running container to a second network and to disconnect it"
    samples = 10
    target = 0.5

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with self.endpoint.network() as self.network:
            self.container = self.endpoint.start(*NOBODY)
            yield
            self.endpoint.remove(self.container)

    def measure(self) -> Figures:
        connected = milliseconds(lambda: self._call("connect"))
        disconnected = milliseconds(lambda: self._call("disconnect"))
        return {
            "": connected + disconnected,
            "connect": connected,
            "disconnect": disconnected,
        }

    def _call(self, verb: str) -> None:
        target = f"/networks/{self.network}/{verb}"
        self.endpoint.call("POST", target, {"Container": self.container})


class StartPorts(Job):
    name = "start-20-ports"
    what = f"start call with {PORTS} published ports"
    target = 0.3

    def measure(self) -> Figures:
        bindings = {f"{80 + number}/tcp": [{"HostPort": ""}] for number in range(PORTS)}
        container = self.endpoint.create(*NOBODY, PortBindings=bindings)
        taken = milliseconds(lambda: self.endpoint.call("POST", f"/containers/{container}/start"))
        found = self.endpoint.inspect(container)["NetworkSettings"]["Ports"]
        self.endpoint.remove(container)
        if not all(found.get(port) for port in bindings):
            raise RuntimeError(f"not all ports are published: {found}")
        return {"": taken}
