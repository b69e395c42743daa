"""longshore-unpack: a single-threaded process that forks a confined child for each layer.

The worker executes it once (``python -m images.unpack <fd>``) and talks over a SOCK_SEQPACKET
socketpair. It never holds credentials or sees the network, and it has no threads, so forking is
safe and costs a few milliseconds instead of an interpreter's start.

    → {"job": n, "whiteouts": bool, "ownership": bool} + [archive, directory]
    → {"cancel": n}
    ← {"job": n, "consumed": bytes of the archive read so far}
    ← {"job": n, "opaque": [path, ...]}                  repeated as needed, before the result
    ← {"job": n, "result": {"size", "diff_id", "entries"}}
    ← {"job": n, "error": text, "errno": int}
    ← {"job": n, "exit": wait status}                    always the last one

The child sends its answers itself; the exit message is the server's. JSON of the standard library,
because paths are bytes and their surrogates survive only there.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from setproctitle import setproctitle

from common import tar
from images import apply, compression, confinement

MESSAGE_LIMIT = 1 << 16
PROGRESS_SECONDS = 0.1
OPAQUE_BATCH = 100


@dataclass(slots=True)
class Job:
    number: int
    pid: int


class Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._children: dict[int, Job] = {}  # by pidfd

    def serve(self) -> None:
        """Until the worker is gone."""
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._control.fileno():
                        if not self._request():
                            return
                    else:
                        self._reap(fd)
        finally:
            for job in self._children.values():
                os.kill(job.pid, signal.SIGKILL)  # still our unreaped children

    def _request(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_LIMIT, 2)
        if not data:
            return False
        request = json.loads(data)
        if "cancel" in request:
            for pidfd, job in self._children.items():
                if job.number == request["cancel"]:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return True
        archive, directory = fds
        pid = os.fork()
        if pid == 0:
            self._child(request, archive, directory)
        os.close(archive)
        os.close(directory)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = Job(request["job"], pid)
        self._poll.register(pidfd, select.POLLIN)
        return True

    def _child(self, request: dict[str, Any], archive: int, directory: int) -> None:
        """Never returns."""
        try:
            for pidfd in self._children:
                os.close(pidfd)
            unpack(self._control, request, archive, directory)
        finally:
            os._exit(0)

    def _reap(self, pidfd: int) -> None:
        job = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(job.pid, 0)
        _send(self._control, {"job": job.number, "exit": status})


def unpack(control: socket.socket, request: dict[str, Any], archive: int, directory: int) -> None:
    """In the child: confine it, apply the archive, report."""
    job = request["job"]
    try:
        confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGKILL)
        confinement.confine(directory)
        applier = apply.Applier(whiteouts=request["whiteouts"], ownership=request["ownership"])
        digest = hashlib.sha256()
        pieces = _watched(control, job, compression.Source(partial(os.read, archive)), digest)
        result = applier.apply(tar.Reader(pieces))
        opaque = sorted(os.fsdecode(path) for path in result.opaque)
        for at in range(0, len(opaque), OPAQUE_BATCH):
            _send(control, {"job": job, "opaque": opaque[at : at + OPAQUE_BATCH]})
        answer = {
            "size": result.size,
            "diff_id": f"sha256:{digest.hexdigest()}",
            "entries": result.entries,
        }
        _send(control, {"job": job, "result": answer})
    except OSError as e:
        path = e.filename if isinstance(e.filename, str | bytes) else b""
        where = f" (path {apply.show(os.fsencode(path))})" if path else ""
        _send(control, {"job": job, "error": f"{e.strerror or e}{where}", "errno": e.errno or 0})
    except (apply.HostileArchive, tar.CorruptArchive, compression.CorruptStream) as e:
        _send(control, {"job": job, "error": str(e), "errno": 0})
    except MemoryError:
        _send(control, {"job": job, "error": "the archive needs too much memory", "errno": 0})


def _watched(
    control: socket.socket, job: int, source: compression.Source, digest: hashlib._Hash
) -> Iterator[bytes]:
    """The archive's plain bytes, hashed on the way; says how far it is ten times a second."""
    due = time.monotonic() + PROGRESS_SECONDS
    for piece in compression.decompressed(source):
        digest.update(piece)
        if time.monotonic() >= due:
            _send(control, {"job": job, "consumed": source.consumed})
            due = time.monotonic() + PROGRESS_SECONDS
        yield piece


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())


def main() -> None:
    confinement.prctl(confinement.PR_SET_PDEATHSIG, signal.SIGKILL)
    setproctitle("longshore-unpack")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    gc.freeze()
    Server(control).serve()


if __name__ == "__main__":
    main()
