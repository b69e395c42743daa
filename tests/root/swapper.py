"""Test support: a name that is two things by turns, as fast as the kernel renames."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

RENAME_EXCHANGE = 2
AT_FDCWD = -100


class Swapper:
    """Exchanges a directory or file with a link to the host's canary, over and over."""

    def __init__(self, one: Path, other: Path) -> None:
        self._names = (os.fsencode(one), os.fsencode(other))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        one, other = self._names
        while not self._stop.is_set():
            assert renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) == 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
