"""Test support: waiting for a condition with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# What deadlines are multiplied by, for a machine that is emulated.
PATIENCE = float(os.environ.get("LONGSHORE_TEST_PATIENCE", "1"))


def until(
    condition: Callable[[], T],
    what: str,
    *,
    timeout: float = 20.0,
    step: float = 0.01,
    explain: Callable[[], str] | None = None,
) -> T:
    """The first true value of ``condition``; AssertionError with ``explain()`` at the deadline."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            detail = explain() if explain else f"last value: {value!r}"
            raise AssertionError(f"waited {timeout * PATIENCE:g} s for {what}; {detail}")
        time.sleep(step)
