"""Test support: what this process has open, to see that something else was closed again."""

from __future__ import annotations

import os
from contextlib import suppress


def descriptors() -> set[str]:
    """Each with what it leads to.

    To be compared by ``<=``: what other tests left, garbage or a thread may close meanwhile.
    """
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found
