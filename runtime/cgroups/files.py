"""Library: reading and writing cgroup files, as few system calls each as the kernel allows.

Every process that runs the runtime uses it, on the path of each container start; so there is no
pathlib here and no buffered I/O. An error is an OSError that carries the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

# What the page counter reports for "no limit" differs by page size; all are above this.
UNLIMITED_FROM = 1 << 62


class WriteFailed(OSError):
    """The kernel did not take ``value``."""

    value = ""


def _failed(error: OSError, path: str, value: str) -> WriteFailed:
    failed = WriteFailed(error.errno, error.strerror, path)
    failed.value = value
    return failed


def write(path: str, value: str) -> None:
    """One write(2); the kernel takes a control file's value as one call or not at all."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise _failed(error, path, value) from None
    finally:
        os.close(fd)


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, 65536)
        if len(content) < 4096:
            return content.decode()
        # seq_file hands out at most a buffer of whole lines per call.
        while piece := os.read(fd, 65536):
            content += piece
        return content.decode()
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def read_or_none(path: str) -> str | None:
    """None where the file does not exist: an older kernel, or a controller that is not there."""
    try:
        return read(path)
    except FileNotFoundError:
        return None


def read_number(path: str) -> int:
    """A counter; 0 where this kernel does not have it."""
    text = read_or_none(path)
    return int(text) if text else 0


def read_limit(path: str) -> int | None:
    """None for "no limit", however this kernel spells it, and where there is no such file."""
    text = read_or_none(path)
    if not text or text.startswith("max"):
        return None
    value = int(text)
    return None if value < 0 or value >= UNLIMITED_FROM else value


def read_keyed(path: str) -> dict[str, int]:
    """A "flat keyed" file (cgroup-v2.rst): one ``key number`` a line; empty where it is missing."""
    pairs = (line.split() for line in (read_or_none(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def write_sequence(directory: str, writes: Iterable[tuple[str, str]]) -> None:
    """Many (file, value) writes in order; a file that repeats is opened once."""
    opened: dict[str, int] = {}
    path, value = directory, ""
    try:
        for name, value in writes:
            path = f"{directory}/{name}"
            if name not in opened:
                opened[name] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            os.write(opened[name], value.encode())
    except OSError as error:
        raise _failed(error, path, value) from None
    finally:
        for fd in opened.values():
            os.close(fd)
