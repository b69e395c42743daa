"""Process ``longshore-zygote``, after zygote.py has sealed it: forks the shims and
the jobs.

Single-threaded and without credentials, since a fork copies its memory. It imports all that
they will ever need, and then only forks. When the socketpair closes it ends; the shims, which
have sessions of their own, go on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.ids import FULL_ID, short
from shim.jobs import process as jobs
from shim.protocol import Connection, ConnectionClosed, Message, ProtocolError, close_all
from shim.shim import Shim
from shim.title import set_title
from shim.warmup import fill_gaps, warm_up

# The container must not take its supervisor along when memory runs out.
OOM_SCORE_ADJ = -999
_fillers: list[bytes] = []


def run(control: Connection, exec_root: Path) -> None:
    prepare(exec_root)
    serve(control, exec_root)


def prepare(exec_root: Path) -> None:
    os.umask(0o022)
    os.chdir("/")
    # Refused without CAP_SYS_RESOURCE, as in an outer container: then there is no such protection.
    with contextlib.suppress(PermissionError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are reaped by the kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is lifecycle's business
    warm_up(exec_root)
    set_title("longshore-zygote", exec_root)
    gc.collect()
    _fillers.extend(fill_gaps())
    # Collections then do not touch, and so do not copy, the pages that all shims share.
    gc.freeze()


def serve(control: Connection, exec_root: Path) -> None:
    spare = Spare()
    while True:
        if not spare.ready and not _waits(control):
            spare.fork(control, exec_root)
        try:
            request, fds = control.recv()
        except (ConnectionClosed, ConnectionResetError):
            return
        except ProtocolError as e:
            answer: Message = {"error": str(e)}
        else:
            answer = handle(control, request, fds, exec_root, spare)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            control.send(answer)


def handle(
    control: Connection, request: Message, fds: list[int], exec_root: Path, spare: Spare
) -> Message:
    container_id = str(request.get("id"))
    root = Path(str(request.get("exec_root") or exec_root))
    try:
        if not fds or not FULL_ID.fullmatch(container_id):
            return {"error": "expected an id and descriptors"}
        match request.get("op"):
            case "fork" if len(fds) == 1:
                pid = spare.assign(request, root, fds)
                if pid:
                    return {"pid": pid}
                become = become_shim
            case "job":
                become = become_job
            case op:
                return {"error": f"{op!r} with {len(fds)} descriptors is no request"}
        pid = os.fork()
        if pid == 0:
            become(control, request, root, fds)
        return {"pid": pid}
    except OSError as e:
        return {"error": f"fork: {e.strerror}"}
    finally:
        close_all(fds)


def become_shim(control: Connection, request: Message, exec_root: Path, fds: list[int]) -> NoReturn:
    _exit_after(lambda: _run_shim(_new_shim(control), request, exec_root, fds))


def become_spare(control: Connection, orders: Connection, exec_root: Path) -> NoReturn:
    _exit_after(lambda: _wait_for_orders(control, orders, exec_root))


def _wait_for_orders(control: Connection, orders: Connection, exec_root: Path) -> None:
    set_title("longshore-spare", exec_root)
    shim = _new_shim(control)
    try:
        request, fds = orders.recv()
    except (ConnectionClosed, ConnectionResetError):
        return  # the zygote has ended
    orders.close()
    _run_shim(shim, request, Path(str(request["exec_root"])), fds)


def _new_shim(control: Connection) -> Shim:
    os.setsid()
    control.close()
    gc.enable()
    return Shim()


def _run_shim(shim: Shim, request: Message, exec_root: Path, fds: list[int]) -> None:
    container_id = str(request["id"])
    set_title(f"longshore-shim {short(container_id)}", exec_root)
    shim.assign(container_id, exec_root, Connection(socket.socket(fileno=fds[0])))
    shim.run()


def _exit_after(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Spare:
    """One shim that has no container yet, so that a start need not wait for its making."""

    def __init__(self) -> None:
        self._pid = 0
        self._orders: Connection | None = None

    @property
    def ready(self) -> bool:
        return self._orders is not None

    def fork(self, control: Connection, exec_root: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return  # then each shim is forked when it is wanted, and its failure is told
        if pid == 0:
            ours.close()
            become_spare(control, Connection(theirs), exec_root)
        theirs.close()
        self._pid, self._orders = pid, Connection(ours)

    def assign(self, request: Message, exec_root: Path, fds: list[int]) -> int:
        """The pid of the spare, which is that container's shim from here on; 0 if there is none."""
        orders, self._orders = self._orders, None
        if orders is None:
            return 0
        try:
            orders.send({"id": request["id"], "exec_root": str(exec_root)}, fds)
        except (BrokenPipeError, ConnectionResetError):
            return 0  # somebody killed it
        finally:
            orders.close()
        return self._pid


def _waits(control: Connection) -> bool:
    """Whether a request is there already: it goes before the making of a spare."""
    poller = select.poll()
    poller.register(control.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def become_job(control: Connection, request: Message, exec_root: Path, fds: list[int]) -> NoReturn:
    """The first descriptor is the job's control socket."""
    try:
        control.close()
        set_title(jobs.title(request), exec_root)
        jobs.run(request, Connection(socket.socket(fileno=fds[0])), fds[1:])
    finally:
        os._exit(1)
