"""Job: a client's path in a container, taken as Docker takes it.

``..`` is resolved lexically and relative paths start at the root; a final ``/`` or ``/.`` counts.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

from common.errors import InternalError, NotFound
from runtime.errors import reason
from runtime.rootpath import IN_ROOT, Root
from runtime.syscalls import RESOLVE_NO_SYMLINKS, openat2

LINK_LIMIT = 255  # as Go's filepath.EvalSymlinks


def clean(path: str) -> str:
    """Absolute, without "..", and with the "/" or "/." that it may end in."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    last = path.rpartition("/")[2]
    if last == ".":
        return "/." if cleaned == "/" else cleaned + "/."
    if not last and path and cleaned != "/":
        return cleaned + "/"
    return cleaned


def base(path: str) -> str:
    """The name under which a clean ``path`` appears in an archive."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def failure(error: OSError, path: str, arguments: dict[str, str]) -> Exception:
    if error.errno == errno.ENOENT:
        return missing(arguments)
    return InternalError(f"lstat {path}: {reason(error.errno or 0)}")


def missing(arguments: dict[str, str]) -> NotFound:
    return NotFound(f"Could not find the file {arguments['path']} in container {arguments['ref']}")


def open_object(root: Root, path: str) -> int:
    """An O_PATH descriptor of what a clean ``path`` names; a link at its end is not followed."""
    return root.open(path, os.O_PATH | os.O_NOFOLLOW)


def open_parent(root: Root, path: str) -> tuple[int, str]:
    """The directory that holds what a clean ``path`` names, and its name there."""
    directory, _, name = path.rpartition("/")
    return root.open(directory or "/", os.O_RDONLY | os.O_DIRECTORY), name


def target(root: Root, path: str) -> str:
    """Where the links of ``path`` lead in the end, also when nothing is there."""
    done: list[str] = []
    todo = [name for name in path.split("/") if name not in ("", ".")]
    links = 0
    while todo:
        name = todo.pop(0)
        if name == "..":
            done = done[:-1]
            continue
        text = _link(root, [*done, name])
        if text is None:
            done.append(name)
            continue
        links += 1
        if links > LINK_LIMIT:
            raise OSError(errno.ELOOP, "too many links", path)
        if text.startswith("/"):
            done = []
        todo = [part for part in text.split("/") if part not in ("", ".")] + todo
    return "/" + "/".join(done)


def _link(root: Root, names: list[str]) -> str | None:
    flags = os.O_PATH | os.O_NOFOLLOW
    try:
        fd = openat2(root.fd, "/".join(names), flags, resolve=IN_ROOT | RESOLVE_NO_SYMLINKS)
    except OSError:
        return None
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            return None
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
