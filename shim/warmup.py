"""Library: what the zygote does before its first fork, so that no shim has to do it again.

Facts about the machine that do not change are looked up. Then a shim's own code is run without a
container: the interpreter specialises code in place while it runs, and each shim that did this anew
would have the pages for itself, and the time to wait. Everything made here is gone at the end.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import orjson

from common import ids
from runtime import capabilities, cgroups, mounts, program, spec, state, syscalls
from shim import request
from shim.logfile import LogFile
from shim.protocol import Connection, Message
from shim.shim import Shim

# From the sixteenth run on CPython 3.11 leaves the code as it is.
_ROUNDS = 20
_HARMLESS = ["nosuid", "noexec", "nodev"]
_KILL = ["CAP_KILL"]
_CONFIG: Message = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": False},
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
        "args": ["true"],
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _KILL),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": False,
        "oomScoreAdj": 0,
    },
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": _HARMLESS},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    ],
    "linux": {
        "cgroupsPath": "/longshore/example",
        "namespaces": [{"type": "pid"}, {"type": "network"}],
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1},
            ],
            "memory": {"limit": 0},
            "cpu": {"shares": 0},
            "pids": {"limit": 0},
        },
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/bus"],
    },
}
_ENDPOINT: Message = {
    "bridge": "bridge0",
    "host_ifname": "ve0",
    "ifname": "eth0",
    "mac": "02:42:0a:00:00:02",
    "mtu": 1500,
    "addresses": ["10.0.0.2/24"],
    "gateway": "10.0.0.1",
}


def warm_up(exec_root: Path) -> None:
    """Single-threaded, and with no child yet."""
    cgroups.detect()
    capabilities.last()
    state.boot_id()
    directory = exec_root / f"warm-up-{os.getpid()}"
    try:
        for _ in range(_ROUNDS):
            _run_shim(directory)
            _prepare_container()
    finally:
        _forget_shim()
        with suppress(OSError):
            (directory / "shims").rmdir()
            directory.rmdir()


def _prepare_container() -> None:
    """The part of a creation that only computes."""
    parsed = spec.parse(orjson.dumps(_CONFIG))
    program.prepare(parsed.process, None)
    for mount in parsed.mounts:
        mounts.plan(mount, "/", lambda _mount: -1)


def _run_shim(exec_root: Path) -> None:
    container_id = ids.new_id()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim = Shim(container_id, exec_root, Connection(theirs))
    control = Connection(ours)
    try:
        _ask(shim, control, {"op": "subscribe"})
        client, served = socket.socketpair()
        with client, served:
            _ask(shim, control, {"op": "attach", "stdout": True, "framed": True}, served)
        request.creation(_start_request(shim.directory))
        _move_output(shim)
        _ask(shim, control, {"op": "abandon"})
    finally:
        control.close()
        shim.close()
        (shim.directory / "shim.sock").unlink()
        (shim.directory / "log").unlink()
        shim.directory.rmdir()


def _start_request(directory: Path) -> Message:
    return {
        "op": "start",
        "bundle": str(directory),
        "state_root": str(directory),
        "rootfs_mounts": [_CONFIG["mounts"][0]],
        "seccomp_bpf": None,
        "stdin_open": False,
        "stdin_once": False,
        "log": {"driver": "json-file", "path": str(directory / "log")},
        "network": {"endpoints": [_ENDPOINT]},
        "ports": [],
        "runtime": None,
        "cgroup_parent": "/longshore",
    }


def _move_output(shim: Shim) -> None:
    log = LogFile(request.start(_start_request(shim.directory)).log, shim.loop.when_idle)
    stdio = shim.streams.open_pipes(stdin=False)
    shim.streams.begin(log, stdin_once=False)
    os.write(stdio[1], b"line\n")
    _turn(shim)
    shim.streams.close()
    log.close()


def _ask(shim: Shim, control: Connection, message: Message, *passed: socket.socket) -> None:
    control.send({"seq": 0, **message}, [each.fileno() for each in passed])
    _turn(shim)
    control.recv()


def _turn(shim: Shim) -> None:
    shim.loop.call_later(0, shim.loop.stop)
    shim.loop.run()


def _forget_shim() -> None:
    """What shims do to their process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
