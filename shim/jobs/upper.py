"""Job: what a container has changed, from its upper directory alone.

overlayfs has there what was added or modified, character devices 0:0 for what was deleted, and a
mark on directories whose content in the lower layers is hidden. Only names are looked up in the
lower layers. The list may be long, so it goes to the second descriptor, one JSON array a line:
``[path, kind]``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from common.treetar import DEPTH_LIMIT, DIRECTORY
from runtime.rootpath import ONE_NAME, Root
from runtime.syscalls import openat2
from shim.jobs.send import Output
from shim.protocol import Message

MODIFIED, ADDED, DELETED = 0, 1, 2
_OPAQUE = "trusted.overlay.opaque"


@dataclass(slots=True)
class Level:
    """One directory of the upper layer, and the same of those below that have it, top first."""

    upper: int
    lower: list[int]
    path: str
    depth: int
    opaque: bool  # what the lower layers have here is not seen


def changes(root: Root, arguments: Message, fds: list[int]) -> Message:
    lower = [os.open(path, DIRECTORY & ~os.O_NOFOLLOW) for path in arguments["lower"]]
    output = Output(fds[1])
    for path, kind in _walk(Level(fds[0], lower, "", 0, opaque=False)):
        shown = path.encode("utf-8", "backslashreplace").decode()
        output.write(orjson.dumps([shown, kind]) + b"\n")
    output.flush()
    return {}


def _walk(level: Level) -> Iterator[tuple[str, int]]:
    if level.depth > DEPTH_LIMIT:
        raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply", level.path)
    names = set(os.listdir(level.upper))
    hidden = _hidden(level, names)
    for name in sorted(names | hidden):
        path = f"{level.path}/{name}"
        if name in hidden:
            yield path, DELETED
            continue
        try:
            state = os.stat(name, dir_fd=level.upper, follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone since it was listed
        if stat.S_ISCHR(state.st_mode) and state.st_rdev == 0:
            if _find(level.lower, name) is not None:
                yield path, DELETED
        elif stat.S_ISDIR(state.st_mode):
            yield from _directory(level, name, path, state)
        else:
            yield path, ADDED if _find(level.lower, name) is None else MODIFIED


def _directory(
    level: Level, name: str, path: str, state: os.stat_result
) -> Iterator[tuple[str, int]]:
    below = _find(level.lower, name)
    try:
        upper = os.open(name, DIRECTORY, dir_fd=level.upper)
    except OSError:
        return
    lower = _descend(level.lower, name)
    try:
        opaque = level.opaque or _is_opaque(upper)
        inside = _walk(Level(upper, lower, path, level.depth + 1, opaque=opaque))
        if below is None:
            yield path, ADDED
        elif not _same(below, state):
            yield path, MODIFIED
        else:
            # Copied up because of something below it, which has to be there still.
            first = next(inside, None)
            if first is None:
                return
            yield path, MODIFIED
            yield first
        yield from inside
    finally:
        for fd in (upper, *lower):
            os.close(fd)


def _same(below: os.stat_result, state: os.stat_result) -> bool:
    return (below.st_mode, below.st_uid, below.st_gid, below.st_mtime_ns) == (
        state.st_mode,
        state.st_uid,
        state.st_gid,
        state.st_mtime_ns,
    )


def _hidden(level: Level, names: set[str]) -> set[str]:
    """What an opaque directory hides and does not have itself."""
    if not level.opaque:
        return set()
    known: set[str] = set()
    for fd in level.lower:
        known.update(os.listdir(fd))
    return {name for name in known - names if _find(level.lower, name) is not None}


def _find(lower: list[int], name: str) -> os.stat_result | None:
    """What the lower layers together have under ``name``."""
    for fd in lower:
        try:
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return None if stat.S_ISCHR(state.st_mode) and state.st_rdev == 0 else state
    return None


def _descend(lower: list[int], name: str) -> list[int]:
    """The layers' directories of that name, down to the first that hides the rest."""
    opened: list[int] = []
    for fd in lower:
        try:
            inner = openat2(fd, name, DIRECTORY, resolve=ONE_NAME)
        except FileNotFoundError:
            continue
        except OSError:
            break  # not a directory here: nothing further down shows
        opened.append(inner)
        if _is_opaque(inner):
            break
    return opened


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def size(root: Root, arguments: Message, fds: list[int]) -> Message:
    """Bytes of regular files; one with several names counts once."""
    seen: set[tuple[int, int]] = set()
    return {"bytes": _size(fds[0], seen, 0)}


def _size(directory: int, seen: set[tuple[int, int]], depth: int) -> int:
    total = 0
    for name in os.listdir(directory):
        try:
            state = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode) and depth < DEPTH_LIMIT:
                fd = os.open(name, DIRECTORY, dir_fd=directory)
                try:
                    total += _size(fd, seen, depth + 1)
                finally:
                    os.close(fd)
        except OSError:
            continue  # gone or replaced since it was listed
        if stat.S_ISREG(state.st_mode):
            key = (state.st_dev, state.st_ino)
            if state.st_nlink == 1 or key not in seen:
                total += state.st_size
            if state.st_nlink > 1:
                seen.add(key)
    return total
