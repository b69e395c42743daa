"""Process ``longshore-job <kind> <short id>``: one piece of work on a container's files.

Forked by the zygote for lifecycle, so it runs from the sealed interpreter and has everything
imported before it enters a hostile root. Single-threaded, blocking, and gone when it has sent its
one answer, ``{"ok": {...}}`` or ``{"error": {"code", "message"}}``. Its control socket is also its
leash: when lifecycle closes the other end, or dies, the kernel ends the job with SIGIO, whatever
it is waiting for.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.errors import EngineError, InternalError, InvalidArgument
from common.ids import short
from common.tar import CorruptArchive
from runtime import capabilities, program, syscalls
from runtime.errors import RuntimeFailure, reason
from runtime.rootpath import Root
from shim.jobs import account, copyup, receive, rehearsal, send, upper, view
from shim.protocol import MSG_CMSG_CLOEXEC, Connection, Message
from shim.title import set_title

OPEN_FILES = 2048  # a path may be nested as deeply as common/treetar.py allows
MAIN_MEMORY = 1 << 30

READING = ("CAP_DAC_READ_SEARCH",)
WRITING = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"),
    "CAP_DAC_READ_SEARCH",
)

Work = Callable[[Root, Message, list[int]], Message]


@dataclass(frozen=True, slots=True)
class Kind:
    work: Work
    enter: view.Enter
    capabilities: tuple[str, ...]


KINDS = {
    "user": Kind(account.check_user, view.enter_to_read, READING),
    "stat": Kind(send.stat_path, view.enter_to_read, READING),
    "get": Kind(send.get, view.enter_to_read, READING),
    "put": Kind(receive.put, view.enter_to_write, WRITING),
    "export": Kind(send.export, view.enter_layers, READING),
    "copy-up": Kind(copyup.fill, view.enter_layers, WRITING),
    # Reading overlayfs's marks takes CAP_SYS_ADMIN; nothing is entered for it.
    "changes": Kind(upper.changes, view.enter_upper, (*READING, "CAP_SYS_ADMIN")),
    "size": Kind(upper.size, view.enter_upper, READING),
}


def run(request: Message, control: Connection, fds: list[int], exec_root: Path) -> NoReturn:
    """Never returns. ``fds`` are the job's alone, and so is the process."""

    def work() -> Message:
        _prepare([control.fileno(), *fds])
        return _work(request, fds)

    try:
        _take_title(request, exec_root)
        _leash(control.socket)
        _finish(request, control, _answer(work))
    finally:
        os._exit(0)


def wait(waiting: Connection, exec_root: Path) -> NoReturn:
    """Likewise, once the request comes; or nothing, if the other end is closed instead.

    With the request comes the control socket. On ``waiting`` its coming itself may be signalled,
    also after it was read.
    """
    try:
        _prepare([waiting.fileno()])
        rehearsal.run()
        _rehearse()
        request, (fd, *fds) = waiting.recv()
        waiting.close()
        control = Connection(socket.socket(fileno=fd))
        _leash(control.socket)
        _take_title(request, exec_root)
        _finish(request, control, _answer(lambda: _work(request, fds)))
    finally:
        os._exit(0)


def _rehearse() -> None:
    """What else is done with a request, to nobody, or ahead: so that it has the pages."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _leash(ours)
    ours.close()
    theirs.close()
    program.forget_import_paths()
    some = frozenset(name for kind in KINDS.values() for name in kind.capabilities)
    capabilities.limit_bounding(_masks(some), capabilities.last())
    with suppress(OSError):  # all of them, which changes nothing
        capabilities.apply(_masks(capabilities.NUMBERS), capabilities.last())


def _finish(request: Message, control: Connection, answer: Message) -> None:
    if request["view"].get("running"):
        _step_back(control, answer)
    else:
        control.send(answer)  # and end at once: the next mount of these layers may be a start's


def _step_back(control: Connection, answer: Message) -> None:
    """Let lifecycle go on before this process ends, which takes the kernel a millisecond.

    Who is woken up may have to wait for the processor of the one that woke him, and has it taken
    away by one that he wakes up. So this process sleeps until lifecycle has closed its end, and
    does not go ahead of it then. What others wait for the end of is closed before.
    """
    program.close_all_but([control.fileno()])
    with suppress(OSError):  # an outer container's filter may refuse it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    control.send(answer)
    control.socket.recv(1)


def _take_title(request: Message, exec_root: Path) -> None:
    set_title(f"longshore-job {request.get('kind')} {short(str(request.get('id')))}", exec_root)


def _work(request: Message, fds: list[int]) -> Message:
    kind = KINDS.get(str(request.get("kind")))
    if kind is None:
        raise InvalidArgument(f"unknown job {request.get('kind')!r}")
    root = kind.enter(request["view"], fds)
    program.forbid_imports()
    _drop(kind.capabilities)
    return kind.work(root, request["arguments"], fds)


def _answer(work: Callable[[], Message]) -> Message:
    try:
        return {"ok": work()}
    except EngineError as error:
        return _error(error)
    except RuntimeFailure as failure:
        return _error(InternalError(str(failure)))
    except CorruptArchive as error:
        text = str(error)
        return _error(InternalError(text if text == "unexpected EOF" else f"archive/tar: {text}"))
    except OSError as error:
        return _error(InternalError(describe(error)))
    except Exception as error:  # the top of the process; a traceback would read container files
        return _error(InternalError(f"{type(error).__name__}: {error}"))


def describe(error: OSError) -> str:
    path = error.filename
    where = os.fsdecode(path) + ": " if isinstance(path, str | bytes) and path else ""
    return f"{where}{reason(error.errno or 0)}"


def _error(error: EngineError) -> Message:
    # Names may be any bytes; a message is UTF-8.
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return {"error": {"code": error.code, "message": text}}


def _leash(control: socket.socket) -> None:
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGIO,))
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have been closed before the signal was armed.
    with suppress(BlockingIOError):
        control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT | MSG_CMSG_CLOEXEC)
        os._exit(1)


def _prepare(keep: list[int]) -> None:
    """While the host's /proc is there and everything is still allowed."""
    with suppress(OSError):  # the zygote's own protection is not for this
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"0")
        os.close(fd)
    capabilities.last()
    program.detach_from_parent(keep, die_with_parent=False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the client may go at any time
    os.umask(0)
    for limit, value in (
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_AS, MAIN_MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _masks(names: Iterable[str]) -> capabilities.Masks:
    kept = capabilities.mask(names)
    return capabilities.Masks(kept, kept, 0, kept, 0)


def _drop(names: tuple[str, ...]) -> None:
    last = capabilities.last()
    wanted = _masks(names)
    capabilities.limit_bounding(wanted, last)
    capabilities.apply(wanted, last)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
