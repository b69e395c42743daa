"""Test support: a plugin of Docker's protocol v1 that runs as a process of its own.

Its directory has ``calls``, where it writes every call, one JSON list a line. ``say``, ``hold`` and
``held`` are for the network plugin, whose module describes them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.netlink import Netlink
from tests import polling
from tests.archives import CHECKOUT
from tests.engine import fresh_name

SOCKETS = Path("/run/docker/plugins")
NOTHING: dict[str, Any] = {"networks": {}, "endpoints": {}, "joined": {}, "pools": {}}


@dataclass
class PluginProcess:
    name: str
    module: str
    root: Path
    socket: Path
    process: subprocess.Popen[bytes]

    def restart(self) -> None:
        self.kill()
        self.process = _start(self.module, self.root, self.socket)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def all_calls(self) -> list[tuple[str, Any]]:
        """But for activation, for which any engine on the machine may ask at any time."""
        file = self.root / "calls"
        # What follows the last line's end is a line that is just being written.
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        found = [(name, body) for name, body in map(json.loads, lines)]
        return [call for call in found if call[0] != "Plugin.Activate"]

    def calls(self, method: str) -> list[Any]:
        return [body for name, body in self.all_calls() if name == method]

    def held(self) -> Any:
        """What the network plugin has and should not lose."""
        file = self.root / "held"
        return json.loads(file.read_text()) if file.exists() else NOTHING

    def say(self, method: str, answer: Any) -> None:
        (self.root / f"say-{method}").write_text(json.dumps(answer))

    def unsay(self) -> None:
        for file in self.root.glob("say-*"):
            file.unlink()

    @contextmanager
    def hold(self, method: str) -> Iterator[None]:
        """It does what it is asked, and does not answer."""
        file = self.root / f"hold-{method}"
        file.touch()
        try:
            yield
        finally:
            file.unlink()

    def methods(self) -> list[str]:
        return [name for name, _ in self.all_calls()]


def _start(module: str, root: Path, path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", module, path, root], cwd=CHECKOUT)

    def answers() -> bool:
        assert process.poll() is None, f"the plugin ended with {process.returncode}"
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        except OSError:
            return False
        return True

    polling.until(answers, f"the plugin at {path}")
    return process


@contextmanager
def running(module: str, root: Path) -> Iterator[PluginProcess]:
    """``python -m <module> <socket> <root>``, under a name of its own."""
    made = not SOCKETS.exists()
    SOCKETS.mkdir(parents=True, exist_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    name = fresh_name()
    path = SOCKETS / f"{name}.sock"
    found = PluginProcess(name, module, root, path, _start(module, root, path))
    try:
        yield found
    finally:
        found.kill()
        path.unlink(missing_ok=True)
        if made:
            SOCKETS.rmdir()


@contextmanager
def network_plugin(root: Path) -> Iterator[PluginProcess]:
    """At the end it has nothing any more, and nothing is left of what it made."""
    with running("tests.network_plugin", root) as found:
        yield found
        assert found.held() == NOTHING
        networks = [body["NetworkID"] for body in found.calls("NetworkDriver.CreateNetwork")]
        endpoints = [body["EndpointID"] for body in found.calls("NetworkDriver.CreateEndpoint")]
    made = {f"tp{one[:10]}" for one in networks}
    made |= {f"{side}{one[:10]}" for one in endpoints for side in ("th", "tc")}
    assert not made & links()


def links() -> set[str]:
    with Netlink() as host:
        return {link.name for link in host.links()}
