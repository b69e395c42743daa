"""Library: the names of one network's containers as files, which lifecycle writes and shims read.

    <exec-root>/names/<network id>/<name>           addresses, one on each line
    <exec-root>/names/<network id>/ptr:<address>    the name for a reverse lookup

A container's resolver runs in its shim and opens one file for a query that is new to it: there is
nothing to push to hundreds of shims when a name changes, a change holds from the next query on, and
lookups need neither the API nor lifecycle. The exec root is in memory (tmpfs). Names are lower
case; bytes that do not belong into a host name are written as %xx, so that no name leads out of its
directory.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

_PLAIN = re.compile(rb"[a-z0-9_-][a-z0-9_.-]*")
_UNCHANGED = b"abcdefghijklmnopqrstuvwxyz0123456789_-"
_LONGEST = 255
SETTLED_NS = 100_000_000
_BYTES = 64 * 1024  # some thousand addresses; a DNS message cannot carry more


def encode(name: bytes) -> str | None:
    """The file's name; None for a name that no container can have."""
    name = name.lower()
    if _PLAIN.fullmatch(name):
        text = name.decode()
    else:
        text = "".join(chr(byte) if byte in _UNCHANGED else f"%{byte:02x}" for byte in name)
    return text if 0 < len(text) <= _LONGEST else None


def read(path: str) -> list[str]:
    """The lines of a file; none if there is no such name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(descriptor, _BYTES).decode().split()
    finally:
        os.close(descriptor)


def version(directory: str) -> int:
    """Another number after each change of a network's names; see ``are_settled``."""
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0


def are_settled(versions: Sequence[int]) -> bool:
    """Whether the next change, whenever it comes, will make other numbers of these.

    The kernel's clock for files ticks some hundred times a second: two changes within one tick look
    alike.
    """
    now = time.time_ns()
    return all(0 < one < now - SETTLED_NS for one in versions)


def write(directory: Path, file: str, lines: Sequence[str]) -> None:
    """Set what ``file`` says, at once for every reader; nothing to say removes it."""
    path = f"{directory}/{file}"
    if not lines:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        return
    # No name is encoded like this one.
    temporary = f"{directory}/%tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        os.write(descriptor, ("\n".join(lines) + "\n").encode())
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
