"""Library: ``longshore-runtime run`` and ``exec`` without --detach: wait in the foreground.

This process stays the parent: it forwards signals, relays the terminal, and ends with the exit
code of the container's process. The shim does not use it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FORWARDED = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM),
    *(signal.SIGUSR1, signal.SIGUSR2),
)
CHUNK = 32768


def wait(pidfd: int, console: int | None) -> int:
    """The exit code, 128+n for a death by signal n."""
    wakeup, signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    for number in (*FORWARDED, signal.SIGWINCH):
        signal.signal(number, lambda *_: None)
    with _raw_terminal(console):
        _relay(pidfd, console, wakeup)
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    if result is None:
        return 1
    return result.si_status + (0 if result.si_code == os.CLD_EXITED else 128)


def _relay(pidfd: int, console: int | None, wakeup: int) -> None:
    poller = select.poll()
    for fd in (pidfd, wakeup):
        poller.register(fd, select.POLLIN)
    if console is not None:
        poller.register(console, select.POLLIN)
        poller.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wakeup in ready:
            _signals(os.read(wakeup, 64), pidfd, console)
        if 0 in ready and console is not None and not _copy(0, console):
            poller.unregister(0)
        if console is not None and console in ready:
            if not _copy(console, 1):
                poller.unregister(console)
        elif pidfd in ready:
            return  # all output of the terminal was delivered before


def _signals(numbers: bytes, pidfd: int, console: int | None) -> None:
    for number in numbers:
        if number == signal.SIGWINCH:
            _copy_size(console)
        elif number in FORWARDED:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)


def _copy(source: int, target: int) -> bool:
    try:
        data = os.read(source, CHUNK)
    except OSError:  # EIO: the terminal's last process is gone
        return False
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return bool(data)


def _copy_size(console: int | None) -> None:
    if console is not None and os.isatty(0):
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(console, termios.TIOCSWINSZ, size)


@contextmanager
def _raw_terminal(console: int | None) -> Iterator[None]:
    if console is None or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    _copy_size(console)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
