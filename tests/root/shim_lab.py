"""Test support: a zygote below a directory of the test, and containers of busybox in it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.ids import new_id
from shim.protocol import Connection, Message, ProtocolError, ShimError, close_all, unwrap
from tests.archives import CHECKOUT, busybox_layer
from tests.polling import until

ENV = ["PATH=/bin:/usr/bin", "TERM=xterm"]
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"]
# Of this run alone: another one beside it must not find its own gone, or these left over.
CGROUP_PARENT = f"/longshore-shim-tests-{os.getpid()}"


class Lab:
    """One zygote; ``close`` ends everything that was started through it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.exec_root = directory / "run"
        self.exec_root.mkdir()
        self.rootfs = directory / "rootfs"
        with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as tar:
            tar.extractall(self.rootfs, filter="fully_trusted")
        self.shims: list[Shim] = []
        self._lock = threading.Lock()
        self.start_zygote()

    def start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.zygote = subprocess.Popen(
                [sys.executable, "-m", "shim.zygote", str(theirs.fileno()), str(self.exec_root)],
                pass_fds=[theirs.fileno()],
                cwd=CHECKOUT,
            )
        ours.settimeout(20)
        self.control = Connection(ours)

    def stop_zygote(self) -> None:
        self.control.close()
        self.zygote.kill()
        self.zygote.wait()

    def shim(self) -> Shim:
        container_id = new_id()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            request = {"op": "fork", "id": container_id, "exec_root": str(self.exec_root)}
            self.control.send(request, [theirs.fileno()])
            answer, fds = self.control.recv()
        close_all(fds)
        ours.settimeout(20)
        shim = Shim(self, container_id, int(answer["pid"]), Connection(ours))
        self.shims.append(shim)
        return shim

    def run(self, *args: str, **options: Any) -> Shim:
        shim = self.shim()
        shim.subscribe()
        shim.start(*args, **options)
        return shim

    def close(self) -> None:
        for shim in self.shims:
            shim.destroy()
        self.stop_zygote()
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            if (hierarchy / CGROUP_PARENT[1:]).is_dir():
                (hierarchy / CGROUP_PARENT[1:]).rmdir()
        shutil.rmtree(self.directory)


class Shim:
    """A shim seen by its first control connection."""

    def __init__(self, lab: Lab, container_id: str, pid: int, connection: Connection) -> None:
        self.lab = lab
        self.id = container_id
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.connection = connection
        self.directory = lab.exec_root / "shims" / container_id
        self.bundle = lab.directory / "bundles" / container_id
        self.log = self.bundle / "json.log"
        self.events: list[Message] = []
        self._seq = 0

    def send(self, op: str, fds: Sequence[int] = (), **fields: Any) -> int:
        self._seq += 1
        self.connection.send({**fields, "op": op, "seq": self._seq}, fds)
        return self._seq

    def receive(self, seq: int) -> Message:
        while True:
            message = self._next()
            if message.get("seq") == seq:
                return unwrap(message)

    def call(self, op: str, fds: Sequence[int] = (), **fields: Any) -> Message:
        return self.receive(self.send(op, fds, **fields))

    def subscribe(self) -> Message:
        return self.call("subscribe")

    def event(self, name: str, **fields: Any) -> Message:
        """The first event of that kind, seen before or still to come."""
        wanted = {"event": name, **fields}
        while True:
            for event in self.events:
                if wanted.items() <= event.items():
                    return event
            self._next()

    def exit_code(self) -> int:
        return int(self.event("exit")["exit_code"])

    def _next(self) -> Message:
        message, fds = self.connection.recv()
        close_all(fds)
        if "event" in message:
            self.events.append(message)
        return message

    def reconnect(self) -> None:
        self.connection.close()
        self.connection = Connection.connect(self.directory / "shim.sock")
        self.connection.socket.settimeout(20)

    def start(self, *args: str, **options: Any) -> Message:
        return self.receive(self.send_start(*args, **options))

    def send_start(
        self,
        *args: str,
        tty: bool = False,
        stdin_open: bool = False,
        stdin_once: bool = False,
        log: Message | None = None,
        fds: Sequence[int] = (),
        config: Message | None = None,
        **fields: Any,
    ) -> int:
        self.bundle.mkdir(parents=True)
        document = oci_config(self.lab.rootfs, args, tty=tty)
        for key, value in (config or {}).items():
            document[key] = {**document.get(key, {}), **value}
        (self.bundle / "config.json").write_text(json.dumps(document))
        return self.send(
            "start",
            fds,
            bundle=str(self.bundle),
            state_root=str(self.lab.exec_root / "runtime"),
            rootfs_mounts=fields.pop("rootfs_mounts", []),
            seccomp_bpf=None,
            stdin_open=stdin_open,
            stdin_once=stdin_once,
            log={"driver": "json-file", "path": str(self.log), **(log or {})},
            network=fields.pop("network", {"endpoints": []}),
            ports=fields.pop("ports", []),
            cgroup_parent=CGROUP_PARENT,
            **fields,
        )

    def attach(
        self,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        framed: bool = False,
        detach_keys: bytes = b"",
        early: bytes = b"",
    ) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self.call(
                "attach",
                [theirs.fileno()],
                **attach_fields(stdin, stdout, stderr, framed, detach_keys),
                early=base64.b64encode(early).decode(),
            )
        ours.settimeout(20)
        return ours

    def exec(
        self,
        *args: str,
        exec_id: str = "e1",
        tty: bool = False,
        stdin: bool = False,
        framed: bool = False,
        attached: bool = True,
    ) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        try:
            with theirs:
                self.call(
                    "exec",
                    [theirs.fileno()] if attached else [],
                    exec_id=exec_id,
                    process=oci_process(args, tty=tty),
                    **attach_fields(stdin, True, True, framed, b""),
                )
        except BaseException:
            ours.close()
            raise
        return ours

    def log_text(self, stream: str | None = None) -> str:
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        return "".join(e["log"] for e in entries if stream in (None, e["stream"]))

    def gone(self, timeout: float = 20) -> None:
        """Wait for the end of the shim's process."""
        until(lambda: not alive(self.pid), f"the end of shim {self.pid}", timeout=timeout)

    def destroy(self) -> None:
        """End the container, then the shim, whatever state they are in."""
        try:
            if alive(self.pid):
                self.reconnect()
                status = self.subscribe()["status"]
                if status == "created":
                    self.call("abandon")
                elif status != "exited":
                    self.call("signal", signal=int(signal.SIGKILL), all=True)
        except (OSError, ProtocolError, ShimError):
            pass  # it has ended meanwhile
        self.connection.close()
        try:
            self.gone()
        except AssertionError:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            raise
        finally:
            os.close(self.pidfd)


def alive(pid: int) -> bool:
    """Whether the process runs; the zygote's children are reaped by the kernel."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def attach_fields(
    stdin: bool, stdout: bool, stderr: bool, framed: bool, detach_keys: bytes
) -> Message:
    return {
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "framed": framed,
        "detach_keys": list(detach_keys),
    }


def oci_process(args: Sequence[str], *, tty: bool = False) -> Message:
    sets = ("bounding", "effective", "permitted")
    return {
        "args": list(args),
        "cwd": "/",
        "env": ENV,
        "terminal": tty,
        "user": {"uid": 0, "gid": 0},
        "capabilities": dict.fromkeys(sets, CAPABILITIES),
    }


def oci_config(rootfs: Path, args: Sequence[str], *, tty: bool = False) -> Message:
    def mount(destination: str, kind: str, *options: str) -> Message:
        return {"destination": destination, "type": kind, "source": kind, "options": list(options)}

    return {
        "ociVersion": "1.0.2",
        "process": oci_process(args, tty=tty),
        "root": {"path": str(rootfs)},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            mount("/dev/pts", "devpts", "nosuid", "newinstance", "ptmxmode=0666", "mode=0620"),
            mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777"),
        ],
        "linux": {
            "namespaces": [{"type": n} for n in ("pid", "network", "ipc", "uts", "mount")],
        },
    }


def receive_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    sock.close()
    return data
