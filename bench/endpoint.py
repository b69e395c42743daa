"""An engine under measurement: its socket, its clients and its processes.

Nothing here knows which engine it is. Its daemons are found from the process that listens on the
socket, and the parent process of a container by the container's id in its command line, which
containerd's shim, conmon and Longshore's shim all have.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import rawhttp
from tests.archives import busybox_layer, docker_archive, tool
from tests.census import ProcessInfo, processes

IMAGE = "bench/busybox:1"
POLL_SECONDS = 0.02


class Endpoint:
    def __init__(self, name: str, host: str) -> None:
        if not host.startswith("unix://"):
            raise ValueError(f"{host}: only unix:// endpoints can be measured")
        self.name = name
        self.host = host
        self.socket = host.removeprefix("unix://")
        self.cli = str(tool("docker", "usr/bin/docker"))
        self.env = {**os.environ, "DOCKER_HOST": host}
        self.version = str(self.call("GET", "/version").json()["Version"])

    def command(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run the docker command and insist on success."""
        done = subprocess.run(
            [self.cli, *arguments], env=self.env, stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode:
            raise RuntimeError(
                f"docker {' '.join(arguments)}: exit {done.returncode}: {done.stderr.decode()}"
            )
        return done

    def output_length(self, *arguments: str) -> int:
        """Run the docker command and count what it prints, keeping nothing of it."""
        buffer = bytearray(1 << 20)
        length = 0
        process = subprocess.Popen(
            [self.cli, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        with process:
            assert isinstance(process.stdout, io.FileIO)
            while count := process.stdout.readinto(buffer):
                length += count
        if process.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: exit {process.returncode}")
        return length

    def call(self, method: str, target: str, body: rawhttp.Body = None) -> rawhttp.Response:
        answer = rawhttp.request(self.socket, method, target, body, timeout=120)
        if answer.status >= 400:
            raise RuntimeError(f"{method} {target}: {answer.status} {answer.body!r}")
        return answer

    @contextmanager
    def keep_alive(self) -> Iterator[Callable[..., Any]]:
        """Calls over one connection, the way a client library makes them."""
        connection = rawhttp.UnixConnection(self.socket, 120)

        def call(method: str, target: str, body: rawhttp.Body = None) -> Any:
            data, headers = rawhttp.encode(body, None)
            connection.request(method, target, data, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {target}: {answer.status} {content!r}")
            return json.loads(content) if content else None

        try:
            yield call
        finally:
            connection.close()

    def create(self, *command: str, name: str = "", **host_config: Any) -> str:
        body = {"Image": IMAGE, "Cmd": list(command), "HostConfig": host_config}
        body["ExposedPorts"] = {port: {} for port in host_config.get("PortBindings", ())}
        target = f"/containers/create?name={name or f'bench-{secrets.token_hex(6)}'}"
        return str(self.call("POST", target, body).json()["Id"])

    def start(self, *command: str, name: str = "", **host_config: Any) -> str:
        container = self.create(*command, name=name, **host_config)
        self.call("POST", f"/containers/{container}/start")
        return container

    def inspect(self, container: str) -> Any:
        return self.call("GET", f"/containers/{container}/json").json()

    def remove(self, container: str) -> None:
        target = f"/containers/{container}?force=1&v=1"
        answer = rawhttp.request(self.socket, "DELETE", target, timeout=120)
        # 404 and 409: somebody else has removed it, or is about to.
        if answer.status not in (204, 404, 409):
            raise RuntimeError(f"DELETE {target}: {answer.status} {answer.body!r}")

    @contextmanager
    def network(self) -> Iterator[str]:
        """A network of its own, with names; whoever is on it must be gone at the end."""
        name = f"bench-{secrets.token_hex(6)}"
        self.call("POST", "/networks/create", {"Name": name})
        try:
            yield name
        finally:
            self.call("DELETE", f"/networks/{name}")

    def prepare(self) -> None:
        archive = docker_archive([IMAGE], [busybox_layer()])
        headers = {"Content-Type": "application/x-tar"}
        answer = rawhttp.request(self.socket, "POST", "/images/load?quiet=1", archive, headers)
        if b"Loaded image" not in answer.body:
            raise RuntimeError(f"{self.name}: cannot load an image: {answer.body!r}")

    def clean(self) -> None:
        """Remove what an interrupted job left, and the image."""
        for container in self.call("GET", "/containers/json?all=1").json():
            if container["Image"] == IMAGE:
                self.remove(container["Id"])
        rawhttp.request(self.socket, "DELETE", f"/images/{IMAGE}?force=1")

    def daemons(self) -> list[ProcessInfo]:
        """The process on the socket and its descendants that belong to no container."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(self.socket)
            size = struct.calcsize("iii")
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        listener, _, _ = struct.unpack("iii", credentials)
        everything = sorted(processes(), key=lambda process: process.started)
        family = {listener}
        for process in everything:
            if process.parent in family and "-shim" not in process.title.split(" ")[0]:
                family.add(process.pid)
        return [process for process in everything if process.pid in family]

    def memory(self) -> float:
        """MB of all daemons and their workers; what they map together counts once (PSS)."""
        total = 0.0
        for daemon in self.daemons():
            try:
                total += memory(daemon.pid)["Pss"]
            except (FileNotFoundError, ProcessLookupError, KeyError):
                continue  # ended meanwhile
        return total

    def peak_memory(self, *arguments: str) -> float:
        """The most that the daemons had while the docker command ran."""
        peak = 0.0
        client = subprocess.Popen([self.cli, *arguments], env=self.env, stdout=subprocess.DEVNULL)
        while client.poll() is None:
            peak = max(peak, self.memory())
            threading.Event().wait(POLL_SECONDS)
        if client.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}: exit {client.returncode}")
        return peak

    @staticmethod
    def parents(containers: list[str]) -> list[ProcessInfo]:
        """The parent process of each container."""
        keys = [container[:12] for container in containers]
        return [p for p in processes() if any(key in p.title for key in keys)]


def memory(pid: int) -> dict[str, float]:
    """Rss and Pss of a process in MB."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, amount = line.split()[:2]
        values[key.rstrip(":")] = int(amount) / 1024
    return values
