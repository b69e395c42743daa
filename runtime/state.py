"""Library: what the runtime remembers of a container, and what it is doing now.

Written at create by the shim or by ``longshore-runtime``; read by whoever acts on the container.

    <state_root>/<id>/          mode 0700
      state.json                ``State``; the file is whole or absent
      exec.fifo                 exists until start; a byte written to it lets init go on (CLI only)
      config.json, seccomp.bpf  the CLI's copies, for exec

The status is not stored but asked of the kernel. A pid alone means nothing after a reboot or once
it is reused, so it is kept with the process's start time and the boot id.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from common import atomicfile
from runtime.errors import NoSuchContainer, RuntimeFailure, WrongStatus
from runtime.jsonfields import InvalidSpec, camel, decode

VALID_ID = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,1023}")
FIFO = "exec.fifo"


@dataclass(frozen=True, slots=True)
class State:
    oci_version: str
    id: str
    pid: int
    start_time: int  # clock ticks since boot, /proc/<pid>/stat
    boot_id: str
    bundle: str
    rootfs: str
    created: str  # RFC 3339
    cgroup_path: str
    cgroup_paths: Mapping[str, str] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()  # types that the container does not share with the runtime
    annotations: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int | None = None
    directory: str = ""  # <state_root>/<id>


def directory(state_root: Path, container_id: str) -> Path:
    if not VALID_ID.fullmatch(container_id):
        raise RuntimeFailure("id", f"invalid container ID format: {container_id!r}")
    return state_root / container_id


def reserve(state_root: Path, container_id: str) -> Path:
    """Make the container's directory; mkdir decides between two creates of one id."""
    path = directory(state_root, container_id)
    try:
        os.makedirs(state_root, 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError as error:
        raise RuntimeFailure(
            "id", "container with given ID already exists", path=str(path)
        ) from error
    except OSError as error:
        raise RuntimeFailure.from_os("state", error, f"mkdir {path}") from error
    return path


def save(state: State) -> None:
    content = orjson.dumps(
        {camel(f.name): getattr(state, f.name) for f in dataclasses.fields(state)}
    )
    atomicfile.write(Path(state.directory) / "state.json", content, durable=False)


def load(state_root: Path, container_id: str) -> State:
    path = directory(state_root, container_id) / "state.json"
    try:
        return decode(State, orjson.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise NoSuchContainer(container_id) from error
    except (orjson.JSONDecodeError, InvalidSpec) as error:
        raise RuntimeFailure("state", f"{path}: {error}", path=str(path)) from error


@functools.cache
def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stat_fields(pid: int) -> tuple[str, int] | None:
    """Process state letter and start time in clock ticks; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name may hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0].decode(), int(fields[19])


def alive(state: State) -> bool:
    """Whether init runs: the same process as at create, and not a zombie."""
    if state.boot_id != boot_id():
        return False
    found = stat_fields(state.pid)
    return found is not None and found[1] == state.start_time and found[0] not in "ZX"


def init_pidfd(state: State) -> int:
    """A pidfd of init, owned by the caller; checked after opening, so it is no one else's."""
    try:
        fd = os.pidfd_open(state.pid)
    except ProcessLookupError as error:
        raise WrongStatus("signal", "container not running") from error
    if not alive(state):
        os.close(fd)
        raise WrongStatus("signal", "container not running")
    return fd


def remove(path: Path) -> None:
    """Remove a container's directory; there is nothing but plain files in it."""
    try:
        with os.scandir(path) as entries:
            names = [entry.path for entry in entries]
        for name in names:
            os.unlink(name)
        os.rmdir(path)
    except FileNotFoundError:
        pass
