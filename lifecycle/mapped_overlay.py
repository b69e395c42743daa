"""Library of lifecycle: overlays of its own with mapped layers, for ``--userns-remap``."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from common.errors import InvalidArgument
from lifecycle.remap import Remap
from runtime import idmaps, mountoptions, mounts


def make(operation: mounts.Operation, remap: Remap | None) -> int:
    """A detached mount."""
    if remap is None:
        return mounts.new_filesystem(operation)
    options = operation.options.data

    def mount() -> int:
        with idmaps.mapped_layers(options, remap.userns_fd, remap.root):
            return mounts.new_filesystem(operation)

    return _in_thread(mount)


def _in_thread(work: Callable[[], int]) -> int:
    """What changes a thread's mount namespace parts it from the others' working directory, too."""
    results: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def try_out(remap: Remap, scratch: Path) -> None:
    """Whether this kernel maps containers' roots on the file system of ``scratch``, which goes.

    At start, and not when the first container is wanted.
    """
    names = ("lower", "upper", "work")
    for name in names:
        (scratch / name).mkdir(parents=True, exist_ok=True)
    options = mountoptions.parse(tuple(f"{name}dir={scratch / name}" for name in names))
    try:
        tree = make(mounts.Operation("/", "overlay", "overlay", options), remap)
        read_only = os.fstatvfs(tree).f_flag & os.ST_RDONLY
        os.close(tree)
        if read_only:  # what overlayfs does where it cannot use the work directory
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    except OSError as error:
        raise InvalidArgument(
            "--userns-remap needs overlayfs on idmapped mounts, which this kernel does not have"
            f" for the file system of {scratch.parent}: {error.strerror}"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
