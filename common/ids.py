"""Library: identifiers of containers, execs, networks and snapshots."""

from __future__ import annotations

import os
import re

FULL_ID = re.compile(r"[0-9a-f]{64}")
SHORT_LENGTH = 12


def new_id() -> str:
    """A random id of 64 hex digits that cannot be taken for a number.

    Docker refuses ids whose first twelve digits are all decimal, because a short id is also the
    default host name and an all-numeric host name breaks resolvers (moby pkg/stringid).
    """
    while True:
        candidate = os.urandom(32).hex()
        if not candidate[:SHORT_LENGTH].isdigit():
            return candidate


def short(full: str) -> str:
    """The twelve digits that clients show; a ``sha256:`` prefix is dropped."""
    return full.removeprefix("sha256:")[:SHORT_LENGTH]
