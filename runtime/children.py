"""Library: what is done to a child by its pidfd."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def end(pidfd: int) -> None:
    """Kill it, wait for its end, and close ``pidfd``."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
