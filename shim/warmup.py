"""Library: what the zygote does before its first fork, so that no shim has to do it again.

Facts about the machine that do not change are looked up. Then a shim's own code is run without a
container: the interpreter specialises code in place while it runs, and each shim that did this anew
would have the pages for itself, and the time to wait. Everything made here is gone at the end.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common import endpoint, ids, netlink
from common.endpoint import Endpoint
from common.netlink import Netlink
from runtime import callscript, capabilities, cgroups, oldoverlay, state, syscalls
from runtime.channel import Channel
from shim import rehearsal, request
from shim.jobs import rehearsal as jobs
from shim.protocol import Connection, Message, close_all
from shim.shim import Shim

# From the sixteenth run on CPython 3.11 leaves the code as it is.
_ROUNDS = 20
# CPython's own allocator has blocks of up to this size (Objects/obmalloc.c).
_LARGEST_POOLED = 512
_ROW = 8
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
    callscript.spawn_function()
    state.boot_id()
    oldoverlay.wanted()
    directory = exec_root / f"warm-up-{os.getpid()}"
    try:
        for _ in range(_ROUNDS):
            _run_shim(directory)
            rehearsal.prepare_container()
            rehearsal.prepare_exec()
            _plug()
            jobs.run()
    finally:
        _forget_shim()
        with suppress(OSError):
            (directory / "shims").rmdir()
            directory.rmdir()


def _run_shim(exec_root: Path) -> None:
    container_id = ids.new_id()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim = Shim(exec_root)
    shim.assign(container_id, Connection(theirs))
    control = Connection(ours)
    try:
        _ask(shim, control, {"op": "subscribe"})
        client, served = socket.socketpair()
        with client, served:
            _ask(shim, control, {"op": "attach", "stdout": True, "framed": True}, served)
        request.creation(_start_request(shim.directory))
        _play_container(shim)
    finally:
        control.close()
        shim.close()
        for name in ("shim.sock", "log", "exit"):
            (shim.directory / name).unlink()
        shim.directory.rmdir()


def _start_request(directory: Path) -> Message:
    return {
        "op": "start",
        "bundle": str(directory),
        "state_root": str(directory),
        "rootfs_mounts": [rehearsal.CONFIG["mounts"][0]],
        "seccomp_bpf": None,
        "stdin_open": False,
        "stdin_once": False,
        "log": {"driver": "json-file", "path": str(directory / "log")},
        "network": None,
        "ports": [],
        "runtime": None,
        "cgroup_parent": "/longshore",
    }


def _play_container(shim: Shim) -> None:
    """From the start to the exit of a container that is not there: its part is played here."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    shim.newborn.use(ours, os.getpid(), os.pidfd_open(os.getpid()))
    newborn, channel = Connection(theirs), Channel(theirs)
    newborn.send({"ok": {"fits": True, "terminal": False}})
    channel.send("made", cgroup="/example", poststop=False)
    channel.send("ready")
    theirs.shutdown(socket.SHUT_WR)
    shim.start(request.start(_start_request(shim.directory)), [])
    newborn.recv()
    stdio = channel.expect("become").fds
    os.write(stdio[1], b"line\n")
    close_all(list(stdio))
    _turn(shim)
    theirs.close()
    shim.reaper.forget(os.getpid())
    shim.end(0)
    _turn(shim)


class _Unsent(Netlink):
    """Says that all was done, and does nothing."""

    def _send(self, messages: tuple[netlink.Message, ...], flags: int) -> None:
        self._sequence += len(messages)
        self._answers = range(self._sequence - len(messages) + 1, self._sequence + 1)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        for sequence in self._answers:
            yield netlink.NLMSG_ERROR, sequence, bytes(4)


def _plug() -> None:
    with _Unsent() as host, _Unsent() as inside, Netlink() as real:
        example, bridge = Endpoint.from_json(_ENDPOINT), real.state("lo")
        assert bridge is not None
        host.execute(endpoint.veth_message(0, example, bridge))
        inside.execute(*endpoint.inside_messages(1, example))


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


def fill_gaps() -> list[bytes]:
    """Objects that fill the gaps in the interpreter's memory, to be kept for ever.

    A shim's new objects then lie side by side in new pages, and not each in a page that it would
    have in common with the zygote otherwise.
    """
    fillers = []
    overhead = sys.getsizeof(b"")
    for size in range(48, _LARGEST_POOLED + 1, 16):
        row, previous = 0, 0
        # Only memory that was never used is handed out in a row.
        while row < _ROW:
            filler = bytes(size - overhead)
            row = row + 1 if id(filler) == previous + size else 0
            previous = id(filler)
            fillers.append(filler)
    return fillers
