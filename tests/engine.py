"""Test support: an engine as its clients see it, and one that the tests start, kill and remove.

``Engine`` is any engine on a unix socket. ``OwnEngine`` is this project's, run from the checkout in
roots of its own, with a bridge of its own, so that it disturbs nothing on the machine and several
can run side by side.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, AnyStr

import docker

from tests import census, polling, rawhttp
from tests.archives import CHECKOUT, busybox_layer, docker_archive, tool
from tests.polling import PATIENCE
from tests.terminal import Terminal

# A name of its own, so that every engine has the same content under it.
BUSYBOX = "longshore-test/busybox:1"
NAME_PREFIX = "t-"
_numbers = itertools.count()


class Client(subprocess.Popen[AnyStr]):
    """A client's command that runs beside the test, and does not outlive its ``with`` block when
    the block fails."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, trace)


class Engine:
    def __init__(self, socket: Path, scratch: Path) -> None:
        self.socket = socket
        self.host = f"unix://{socket}"
        self.cli = tool("docker", "usr/bin/docker")
        home = scratch / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DOCKER_CONFIG": str(home),
            "DOCKER_HOST": self.host,
            "TERM": "xterm",
        }

    @property
    def own(self) -> bool:
        """Whether the tests may kill its processes."""
        return False

    @functools.cached_property
    def client(self) -> Any:
        return docker.DockerClient(base_url=self.host, version="auto", timeout=30 * PATIENCE)

    def docker(
        self,
        *arguments: str,
        input: str | bytes | None = None,  # noqa: A002 - subprocess's word
        check: bool = True,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run the docker command; with ``check`` a failure is an assertion with its stderr."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [self.cli, *arguments],
            input=data,
            env=self.env,
            capture_output=True,
            timeout=timeout * PATIENCE,
        )
        text = subprocess.CompletedProcess[str](
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()
        )
        if check and text.returncode != 0:
            raise AssertionError(
                f"docker {' '.join(arguments)}: exit {text.returncode}\n{text.stdout}{text.stderr}"
            )
        return text

    def spawn(self, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> Client[bytes]:
        return Client(
            [self.cli, *arguments],
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def terminal(self, *arguments: str) -> Terminal:
        return Terminal([str(self.cli), *arguments], self.env)

    def api(
        self,
        method: str,
        target: str,
        body: rawhttp.Body = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 30.0,
    ) -> rawhttp.Response:
        return rawhttp.request(
            str(self.socket), method, target, body, headers, timeout=timeout * PATIENCE
        )

    def hijack(
        self, target: str, body: rawhttp.Body = None, *, upgrade: bool = True, early: bytes = b""
    ) -> rawhttp.Hijacked:
        return rawhttp.hijack(str(self.socket), target, body, upgrade=upgrade, early=early)

    def inspect(self, container: str) -> Any:
        answer = self.api("GET", f"/containers/{container}/json")
        assert answer.status == 200, answer.body
        return answer.json()

    def status(self, container: str) -> str:
        return str(self.inspect(container)["State"]["Status"])

    def wait_status(self, container: str, status: str, timeout: float = 20.0) -> None:
        polling.until(
            lambda: self.status(container) == status, f"{container} to be {status}", timeout=timeout
        )

    def responds(self) -> bool:
        try:
            return self.api("GET", "/_ping", timeout=5).status == 200
        except OSError:
            return False

    def load_busybox(self) -> None:
        archive = docker_archive([BUSYBOX], [busybox_layer()])
        answer = self.api(
            "POST", "/images/load?quiet=1", archive, {"Content-Type": "application/x-tar"}
        )
        assert f"Loaded image: {BUSYBOX}".encode() in answer.body, (
            answer.body.decode() + self.log_tail()
        )

    def log_tail(self, start: int = 0, limit: int = 8000) -> str:
        """What the engine has logged since ``start``; nothing where the log is not ours."""
        return ""

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()
            del self.client


def fresh_name() -> str:
    """A container, image or volume name that shows whose it is."""
    return NAME_PREFIX + secrets.token_hex(5)


class OwnEngine(Engine):
    def __init__(self, scratch: Path, flags: tuple[str, ...] = ()) -> None:
        number = next(_numbers)
        self.base = scratch / f"engine{number}"
        self.data_root = self.base / "data"
        # None is the beginning of another's: processes and rules are found by these names.
        self.exec_root = Path(f"/run/longshore-test-{os.getpid()}-{number:03}")
        self.bridge = f"{census.TEST_BRIDGE}{number:03}"
        self.bip = f"10.{200 + os.getpid() % 50}.{number}.1/24"
        self.log = self.base / "engine.log"
        self.config = self.base / "daemon.json"
        self.pidfile = self.base / "engine.pid"
        super().__init__(self.exec_root / "docker.sock", self.base)
        self.config.write_text("{}")
        self.flags = flags
        self.tables: set[tuple[str, str]] = set()
        self.firewall_undo: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def own(self) -> bool:
        return True

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "compat_api"),
            *("-H", self.host),
            *("--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root)),
            *("--pidfile", str(self.pidfile)),
            *("--config-file", str(self.config)),
            *("--bridge", self.bridge),
            *("--bip", self.bip),
            *self.flags,
        ]

    def start(self) -> None:
        self.exec_root.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            process = self.process = subprocess.Popen(
                self.command(), cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def up() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"longshored ended with {process.returncode}")
            return self.responds() and self.api("GET", "/containers/json").status == 200

        try:
            polling.until(up, "longshored to answer", timeout=40)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None
        self.tables |= census.tables_of(self.bridge)

    def stop(self) -> None:
        """End the daemons the way an operator does; containers go on."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"longshored ignored SIGTERM:\n{self.log_tail()}") from None
        finally:
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def log_tail(self, start: int = 0, limit: int = 8000) -> str:
        content = self.log.read_bytes()[start:] if self.log.exists() else b""
        return content[-limit:].decode(errors="replace")

    # Processes

    def lifecycle_pid(self) -> int:
        return self._one(
            lambda title: title.startswith("longshore-lifecycle"), "longshore-lifecycle"
        )

    def zygote_pid(self) -> int:
        return self._one(lambda title: title.startswith("longshore-zygote"), "longshore-zygote")

    def shim_pid(self, container: str) -> int:
        short = self.inspect(container)["Id"][:12]
        return self._one(
            lambda title: title.startswith(f"longshore-shim {short}"), f"shim of {short}"
        )

    def _one(self, matches: Any, what: str) -> int:
        """Waits while there are two: a child that has just been forked has its parent's title."""
        found: list[int] = []

        def is_alone() -> bool:
            found[:] = [
                process.pid
                for process in census.processes()
                if matches(process.title)
                and (str(self.exec_root) in process.title or process.parent in self._daemons())
            ]
            return len(found) == 1

        polling.until(
            is_alone,
            f"one process {what} of {self.exec_root}",
            timeout=20,
            explain=lambda: f"there are {found}",
        )
        return found[0]

    def _daemons(self) -> set[int]:
        """longshored and its descendants that were not re-parented."""
        known = {self.process.pid} if self.process else set()
        for process in sorted(census.processes(), key=lambda p: p.started):
            if process.parent in known:
                known.add(process.pid)
        return known

    def kill_api(self) -> None:
        """kill -9 of longshored alone."""
        assert self.process
        self.process.kill()
        self.process.wait()
        self.process = None

    def kill_lifecycle(self) -> None:
        census.kill(self.lifecycle_pid())

    def kill_zygote(self) -> None:
        census.kill(self.zygote_pid())

    def kill_daemons(self) -> None:
        """kill -9 of the API, then lifecycle, then the zygote."""
        lifecycle, zygote = self.lifecycle_pid(), self.zygote_pid()
        self.kill_api()
        census.kill(lifecycle)
        census.kill(zygote)

    def kill_everything(self) -> None:
        """What a power cut does to the engine's processes: daemons, shims and containers."""
        containers = self.api("GET", "/containers/json").json()
        inits = [self.inspect(container["Id"])["State"]["Pid"] for container in containers]
        shims = [self.shim_pid(container["Id"]) for container in containers]
        self.kill_daemons()
        for pid in (*shims, *inits):
            census.kill(pid)

    def reboot(self) -> None:
        """Kill everything, empty /run, and start again."""
        self.kill_everything()
        census.unmount_below(self.exec_root)
        shutil.rmtree(self.exec_root)
        census.remove_cgroups(path.name for path in (self.data_root / "containers").iterdir())
        self.start()

    def destroy(self) -> None:
        """Remove every trace, whatever state the engine is in."""
        if self.process and self.responds():
            for container in self.api("GET", "/containers/json?all=1").json():
                self.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.close()
        try:
            self.stop()
        finally:
            for process in census.processes():
                if str(self.exec_root) in process.title:
                    census.kill(process.pid)
            census.unmount_below(self.exec_root)
            census.unmount_below(self.data_root)
            containers = self.data_root / "containers"
            if containers.exists():
                census.remove_cgroups(path.name for path in containers.iterdir())
            for command in self.firewall_undo:
                census.nft(command)
            self.firewall_undo = []
            census.remove_link(self.bridge)
            census.remove_tables(self.tables)
            shutil.rmtree(self.exec_root, ignore_errors=True)
            shutil.rmtree(self.base, ignore_errors=True)
