"""Library of lifecycle: a new volume starts with what the image has where it is mounted.

Done when the container is created, as by Docker. Mostly the image has nothing there, or an empty
directory: that is found out by looking the path up in the layers, which takes microseconds, and
then the volume's directory only gets the owner and the mode of the image's. Only where there is
more to it a job mounts the image and copies.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import EngineError, InternalError
from common.fileparts import get_xattrs, set_xattrs
from lifecycle import jobs, mountpoints
from lifecycle._pb import containers_pb2 as pb
from lifecycle.engine import Engine
from runtime.rootpath import ONE_NAME
from runtime.syscalls import openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_OPAQUE = "trusted.overlay.opaque"


@dataclass(frozen=True, slots=True)
class Attributes:
    """Of a directory of the image."""

    uid: int
    gid: int
    mode: int
    xattrs: dict[bytes, bytes]


UNCLEAR = Attributes(-1, -1, 0, {})


class Unclear(Exception):
    """There is content, or a link: only the mounted image tells."""


async def fill(engine: Engine, record: pb.Container, find: Callable[[str], pb.Container]) -> None:
    """``find`` looks up a container of --volumes-from, whose volumes are not new."""
    layers: list[Path] | None = None
    for point in wanted(record, find):
        if layers is None:
            layers = engine.images.details.container_lower(record.id)
        try:
            found = look_up(layers, point.destination)
        except Unclear:
            found = UNCLEAR
        if found is not None:
            async with _mounted(engine, record, point) as directory:
                await _fill(engine, record, point, directory, found)


@asynccontextmanager
async def _mounted(
    engine: Engine, record: pb.Container, point: pb.MountPoint
) -> AsyncIterator[Path]:
    """Where the volume's files are: a device, or a plugin's, is there only while it is used."""
    user = f"{record.id}:{point.destination}:content"
    try:
        directory = await engine.volumes.mount(point.name, user)
    except EngineError as error:
        text = f"error while mounting volume '{point.source}': {error}"
        raise InternalError(text) from error
    try:
        yield Path(directory)
    finally:
        await engine.volumes.unmount(point.name, user)


async def _fill(
    engine: Engine, record: pb.Container, point: pb.MountPoint, directory: Path, found: Attributes
) -> None:
    if not _is_empty(directory):
        return
    if found is not UNCLEAR:
        _adopt(directory, found)
        return
    volume = await engine.volumes.get(point.name)
    async with volume.lock:
        if _is_empty(directory):  # else another container was created at the same time
            await _copy(engine, record.id, directory, point.destination)


def wanted(record: pb.Container, find: Callable[[str], pb.Container]) -> Iterator[pb.MountPoint]:
    """The volumes that take the image's content if they are empty."""
    host = record.host_config
    binds = [mountpoints.parse_bind(text) for text in host.binds.values]
    given = {bind.destination: "nocopy" not in bind.options for bind in binds}
    for mount in host.mounts:
        copies = not (mount.volume.no_copy or mount.volume.subpath)
        given[posixpath.normpath(mount.target)] = copies
    theirs = {
        point.destination
        for entry in host.volumes_from.values
        for point in find(entry.partition(":")[0]).mounts
    }
    for point in record.mounts:
        if point.type == "volume" and given.get(point.destination, point.destination not in theirs):
            yield point


def _is_empty(directory: Path) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def _adopt(directory: Path, found: Attributes) -> None:
    fd = os.open(directory, _DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        if (about.st_uid, about.st_gid) != (found.uid, found.gid):
            os.fchown(fd, found.uid, found.gid)
        if stat.S_IMODE(about.st_mode) != found.mode:
            os.fchmod(fd, found.mode)
        set_xattrs(fd, found.xattrs)
    finally:
        os.close(fd)


async def _copy(engine: Engine, container_id: str, directory: Path, destination: str) -> None:
    fd = os.open(directory, _DIRECTORY | os.O_CLOEXEC)
    try:
        view = jobs.layers(engine, container_id)
        arguments = {"path": destination}
        await jobs.run_in(engine, container_id, "copy-up", view, arguments, [fd])
    except BaseException:
        # Half of the content would be taken for all of it by the next container.
        await asyncio.to_thread(_empty, directory)
        raise
    finally:
        os.close(fd)


def _empty(directory: Path) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def look_up(layers: Sequence[Path], destination: str) -> Attributes | None:
    """The empty directory that the image has there, or None for nothing at all.

    The layers are not mounted: their marks for what a lower one does not show are read here.
    """
    names = [name for name in posixpath.normpath(destination).split("/") if name]
    found: Attributes | None = None
    for layer in layers:
        attributes, hides = _look_into(layer, names)
        found = found or attributes
        if hides:
            break
    return found


def _look_into(layer: Path, names: Sequence[str]) -> tuple[Attributes | None, bool]:
    """One layer's directory, if it has it; and whether it hides what is in those below."""
    fd = os.open(layer, _DIRECTORY | os.O_CLOEXEC)
    hides = False
    try:
        for name in names:
            try:
                inner = openat2(fd, name, _DIRECTORY, resolve=ONE_NAME)
            except FileNotFoundError:
                return None, hides
            except OSError as error:
                if _is_whiteout(fd, name):
                    return None, True
                raise Unclear from error
            os.close(fd)
            fd = inner
            hides = hides or _is_opaque(fd)
        if os.listdir(fd):
            raise Unclear
        about = os.fstat(fd)
        mode = stat.S_IMODE(about.st_mode)
        return Attributes(about.st_uid, about.st_gid, mode, get_xattrs(fd)), hides
    finally:
        os.close(fd)


def _is_whiteout(directory: int, name: str) -> bool:
    about = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
