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
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.ids import FULL_ID, short
from runtime import syscalls
from shim.jobs import process as jobs
from shim.protocol import Connection, ConnectionClosed, Message, ProtocolError, close_all
from shim.shim import Shim
from shim.title import set_title
from shim.warmup import fill_gaps, warm_up

# The container must not take its supervisor along when memory runs out.
OOM_SCORE_ADJ = -999
# All that the zygote, a shim or a job ignores or handles.
SIGNALS = (
    *(signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGTERM, signal.SIGHUP, signal.SIGIO),
)
SPARES = ("spare", "spare-job")  # nobody's yet
TURN_NS = 100_000  # the shortest that the kernel grants
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
    _ignore_signals()
    warm_up(exec_root)
    set_title("longshore-zygote", exec_root)
    gc.collect()
    # A child that enters a container clears it, which would copy 180 pages, in 0.8 ms.
    sys.path_importer_cache.clear()
    _fillers.extend(fill_gaps())
    # Collections then do not touch, and so do not copy, the pages that all shims share.
    gc.freeze()


def _ignore_signals() -> None:
    """Whoever started us may have ignored others: the processes of containers must not."""
    syscalls.default_signals()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python has them
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims are reaped by the kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is lifecycle's business
    syscalls.changed_signals = SIGNALS


def serve(control: Connection, exec_root: Path) -> None:
    while True:
        try:
            request, fds = control.recv()
        except (ConnectionClosed, ConnectionResetError):
            return
        except ProtocolError as e:
            answer: Message = {"error": str(e)}
        else:
            answer = handle(control, request, fds, exec_root)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            control.send(answer)


def handle(control: Connection, request: Message, fds: list[int], exec_root: Path) -> Message:
    container_id = str(request.get("id"))
    root = Path(str(request.get("exec_root") or exec_root))
    try:
        op = request.get("op")
        if not fds or (op not in SPARES and not FULL_ID.fullmatch(container_id)):
            return {"error": "expected an id and descriptors"}
        match op:
            case "fork" if len(fds) == 1:
                become = become_shim
            case "spare" if len(fds) == 1:
                become = become_spare
            case "spare-job" if len(fds) == 1:
                become = become_spare_job
            case "job":
                become = become_job
            case _:
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
    def work() -> None:
        shim, connection = _new_shim(control, exec_root, fds)
        subscribed = bool(request.get("subscribed"))
        _run_shim(shim, str(request["id"]), connection, subscribed=subscribed)

    _exit_after(work)


def become_spare(
    control: Connection, request: Message, exec_root: Path, fds: list[int]
) -> NoReturn:
    """A shim that waits, all made, until lifecycle tells it its container."""

    def work() -> None:
        set_title("longshore-spare", exec_root)
        shim, connection = _new_shim(control, exec_root, fds)
        shim.newborn.clone(idle=True)
        try:
            order, _ = connection.recv()
        except (ConnectionClosed, ConnectionResetError):
            return  # nobody wants it any more
        connection.send({"seq": order.get("seq"), "ok": {}})
        _run_shim(shim, str(order["id"]), connection, subscribed=True)

    _exit_after(work)


def _new_shim(control: Connection, exec_root: Path, fds: list[int]) -> tuple[Shim, Connection]:
    os.setsid()
    control.close()
    gc.enable()
    take_short_turns()
    return Shim(exec_root), Connection(socket.socket(fileno=fds[0]))


def take_short_turns() -> None:
    """Have the processor soon after waking up, for short.

    Somebody waits for nearly all that a shim does, and it does that in microseconds. Who asks for
    turns of the usual length waits for others' to end: on a machine with more to do than
    processors, one DNS question in a hundred took 3 ms. Before Linux 6.12 the length is ignored.
    Children have the usual length again.
    """
    attributes = syscalls.sched_attr(
        sched_policy=os.SCHED_OTHER,
        sched_flags=syscalls.SCHED_FLAG_RESET_ON_FORK,
        sched_nice=os.getpriority(os.PRIO_PROCESS, 0),
        sched_runtime=TURN_NS,
    )
    with contextlib.suppress(OSError):  # an outer container's filter may refuse it
        syscalls.sched_setattr(attributes)


def _run_shim(shim: Shim, container_id: str, connection: Connection, *, subscribed: bool) -> None:
    set_title(f"longshore-shim {short(container_id)}", shim.exec_root)
    shim.assign(container_id, connection, subscribed=subscribed)
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


def become_spare_job(
    control: Connection, request: Message, exec_root: Path, fds: list[int]
) -> NoReturn:
    """A job that waits, all prepared, until lifecycle sends it its request."""
    try:
        control.close()
        set_title("longshore-spare-job", exec_root)
        jobs.wait(Connection(socket.socket(fileno=fds[0])), exec_root)
    finally:
        os._exit(1)


def become_job(control: Connection, request: Message, exec_root: Path, fds: list[int]) -> NoReturn:
    """The first descriptor is the job's control socket."""
    try:
        control.close()
        jobs.run(request, Connection(socket.socket(fileno=fds[0])), fds[1:], exec_root)
    finally:
        os._exit(1)
