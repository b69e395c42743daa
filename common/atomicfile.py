"""Library: files that are either their old self or their new one, also after kill -9.

Used by the runtime (state.json), the shim (exit records) and lifecycle (small files beside the
database). Not for anything large: the whole content is in memory.
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``content``.

    ``durable`` adds the two fsyncs that make it survive a power cut; on a tmpfs they buy nothing,
    so callers that write below /run pass False.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
    )
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, path)
    if durable:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and unlinks in ``directory`` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
