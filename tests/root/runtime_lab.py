"""Test support: bundles of busybox, containers made of them by the library, and by the command."""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.ids import new_id
from runtime import cgroups
from tests.archives import CHECKOUT, busybox_layer

# Of this run alone: another one beside it must not find its own gone, or these left over.
CGROUP_PARENT = f"/longshore-runtime-tests-{os.getpid()}"
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"]
HARMLESS = ["nosuid", "noexec", "nodev"]
CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "hostname": "box",
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": HARMLESS},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*HARMLESS, "mode=1777", "size=65536k"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*HARMLESS, "ro"]},
    ],
    "linux": {
        "namespaces": [
            {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
        ],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}


@functools.cache
def layer() -> bytes:
    return busybox_layer()


class Failed(Exception):
    """The RuntimeFailure that the driver answered."""

    def __init__(self, step: str, errno: int, path: str, message: str) -> None:
        super().__init__(message)
        self.step, self.errno, self.path, self.message = step, errno, path, message


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    output: str


class Driver:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.root.runtime_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "failure" in answer:
            raise Failed(**answer["failure"])
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Box:
    """One bundle; ``config`` is the test's to change."""

    def __init__(self, directory: Path, driver: Driver) -> None:
        self.directory = directory
        self.driver = driver
        self.id = new_id()
        self.state_root = directory / "state"
        self.bundle = directory / "bundle"
        self.rootfs = self.bundle / "rootfs"
        self.rootfs.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(layer())) as tar:
            tar.extractall(self.rootfs, filter="fully_trusted")
        self.output = directory / "output"
        self.config = copy.deepcopy(CONFIG)
        self.config["linux"]["cgroupsPath"] = f"{CGROUP_PARENT}/{self.id}"

    @property
    def process(self) -> dict[str, Any]:
        return self.config["process"]  # type: ignore[no-any-return]

    @property
    def linux(self) -> dict[str, Any]:
        return self.config["linux"]  # type: ignore[no-any-return]

    def mount(
        self, destination: str, source: Path | str, *options: str, type_: str = "bind"
    ) -> None:
        self.config["mounts"].append(
            {
                "destination": destination,
                "type": type_,
                "source": str(source),
                "options": list(options),
            }
        )

    def write(self, *args: str) -> None:
        if args:
            self.process["args"] = list(args)
        (self.bundle / "config.json").write_text(json.dumps(self.config))

    def ask(self, op: str, **fields: object) -> dict[str, Any]:
        return self.driver.ask(
            op,
            id=self.id,
            bundle=str(self.bundle),
            state_root=str(self.state_root),
            output=str(self.output),
            **fields,
        )

    def create(self, *args: str, **fields: object) -> int:
        self.write(*args)
        return int(self.ask("create", **fields)["pid"])

    def start(self, *args: str, **fields: object) -> int:
        pid = self.create(*args, **fields)
        self.ask("start")
        return pid

    def run(self, *args: str, **fields: object) -> Result:
        self.output.unlink(missing_ok=True)
        self.start(*args, **fields)
        code = self.ask("wait")["code"]
        self.ask("delete")
        return Result(code, self.output.read_text())

    def sh(self, script: str, **fields: object) -> str:
        """The output of a script that has to succeed."""
        result = self.run("sh", "-c", script, **fields)
        assert result.code == 0, result
        return result.output

    def exec(self, *args: str, by_fork: bool = False, **process: Any) -> Result:
        self.output.unlink(missing_ok=True)
        given = {**self.process, "terminal": False, "args": list(args), **process}
        code = self.ask("exec", process=given, by_fork=by_fork)["code"]
        return Result(code, self.output.read_text())

    def close(self) -> None:
        self.ask("delete")
        manager = cgroups.manager(f"{CGROUP_PARENT}/{self.id}")
        assert not manager.exists()
        assert not list(self.state_root.glob("*"))
        for directory in set(cgroups.manager(CGROUP_PARENT).paths.values()):
            with suppress(OSError):  # it was never made, or another box is in it
                os.rmdir(directory)


class Command:
    """``longshore-runtime``."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        # Into files: a container that outlives its creator keeps them, as it would keep pipes.
        out, err = self.box.directory / "cli.out", self.box.directory / "cli.err"
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "runtime"),
                    *("--root", str(self.box.state_root)),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=CHECKOUT,
                timeout=30,
                check=False,
                **options,
            )
        return subprocess.CompletedProcess(
            done.args, done.returncode, out.read_text(), err.read_text()
        )
