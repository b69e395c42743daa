"""Library of lifecycle: mounts on the host that are there only while a container is started.

A part of a volume, and an image or a part of one, cannot be named by a path that stays true until
the runtime uses it: a container that has the same volume may put a link there meanwhile. So it is
looked up once, mounted below ``<exec-root>/staging``, and bound from there by the runtime. When the
container has it, the mount on the host goes; one that a crash left goes at the next start.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from common.errors import EngineError, InternalError, InvalidArgument
from common.ids import new_id
from lifecycle import hostmounts, mapped_overlay
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.remap import Remap
from runtime import mountoptions, mounts, syscalls

CLONE = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS


def mount(engine: Engine, container: Container, mapping: Remap | None) -> dict[str, str]:
    """Destination to path, for the mounts that need it; ``unmount`` takes them away.

    ``mapping`` is for images; volumes get theirs from the runtime.
    """
    staged: dict[str, str] = {}
    try:
        for point in container.record.mounts:
            if point.type == "image" or point.subpath:
                staged[point.destination] = os.fspath(_stage(engine, point, mapping))
    except BaseException:
        unmount(engine, staged)
        raise
    return staged


def unmount(engine: Engine, staged: Mapping[str, str]) -> None:
    for path in staged.values():
        _remove(Path(path))


def sweep(engine: Engine) -> None:
    if engine.paths.staging.is_dir():
        for path in engine.paths.staging.iterdir():
            _remove(path)


def _remove(path: Path) -> None:
    """Never more than an empty place: what is mounted there is not ours to delete."""
    hostmounts.unmount(path)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


def _stage(engine: Engine, point: pb.MountPoint, mapping: Remap | None) -> Path:
    with ExitStack() as opened:
        if point.type == "image":
            base = _image(engine, point, mapping)
        else:
            base = syscalls.open_tree(syscalls.AT_FDCWD, point.source, CLONE)
        opened.callback(os.close, base)
        tree = base
        if point.subpath:
            found = _look_up(base, point.subpath, point.source)
            opened.callback(os.close, found)
            tree = syscalls.open_tree(found, "", syscalls.AT_EMPTY_PATH | CLONE)
            opened.callback(os.close, tree)
        return _attach(engine.paths.staging, tree)


def _attach(directory: Path, tree: int) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / new_id()
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        path.mkdir(mode=0o700)
    else:
        path.touch(mode=0o600)
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        syscalls.move_mount(tree, target)
    except OSError as error:
        _remove(path)
        raise InternalError(f"cannot mount onto {path}: {error.strerror}") from error
    finally:
        os.close(target)
    return path


def _look_up(base: int, subpath: str, shown: str) -> int:
    """A descriptor of what lies there now, wherever links inside lead, but never outside."""
    try:
        return syscalls.openat2(base, subpath, os.O_PATH, resolve=BENEATH)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidArgument(
                f"path concatenation escapes the base directory, base: {shown}, subpath: {subpath}"
            ) from error
        path = f"{shown}/{subpath}"
        reason = os.strerror(error.errno or 0).lower()
        raise InternalError(f"cannot access path {path}: lstat {path}: {reason}") from error


def _image(engine: Engine, point: pb.MountPoint, mapping: Remap | None) -> int:
    """A detached mount of the image's layers, read-only whatever was asked for, as in Docker."""
    try:
        image = engine.images.resolve(point.image_id)
    except EngineError as error:
        raise InternalError(f"image {point.name} of a mount is gone: {error}") from error
    layers = engine.images.details.layer_directories(image)
    # overlayfs wants two directories at least, and an image may have one layer.
    empty = engine.paths.staging / "empty"
    empty.mkdir(mode=0o755, parents=True, exist_ok=True)
    lower = "lowerdir=" + ":".join(map(os.fspath, (*layers, empty)))
    operation = mounts.Operation(
        point.destination, "overlay", "overlay", mountoptions.parse((lower, "ro"))
    )
    try:
        if not layers:
            return syscalls.open_tree(syscalls.AT_FDCWD, os.fspath(empty), CLONE)
        return mapped_overlay.make(operation, mapping)
    except OSError as error:
        raise InternalError(f"cannot mount image {point.name}: {error.strerror}") from error
