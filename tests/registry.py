"""Test support: a real registry (Debian's docker-registry) on a free port of the loopback."""

from __future__ import annotations

import http.client
import socket
import subprocess
from pathlib import Path

from tests import polling
from tests.archives import tool

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Registry:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.directory / "config.yml"
        config.write_text(CONFIG.format(root=self.directory / "data", port=self.port))
        with (self.directory / "registry.log").open("wb") as log:
            self.process = subprocess.Popen(
                [tool("docker-registry", "usr/bin/docker-registry"), "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        polling.until(self._responds, "docker-registry to answer")

    def _responds(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
