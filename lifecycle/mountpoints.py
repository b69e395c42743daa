"""Library of lifecycle: what a container mounts besides its root: binds, volumes, images, tmpfs.

``resolve`` is run at create: it reads every form in which Docker accepts mounts, makes the volumes
that are missing, and says where everything is. ``oci_mounts`` is run at every start.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import InternalError, InvalidArgument, NotFound, NotSupported
from images.model import Image
from lifecycle._pb import containers_pb2 as pb
from lifecycle.remap import Remap
from lifecycle.spec_mounts import PROPAGATIONS
from lifecycle.volumes import VolumeService

Json = dict[str, Any]


# What Docker lets a tmpfs be given.
_TMPFS_VALUES = frozenset(("", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_TMPFS_FLAGS = frozenset(
    (
        *PROPAGATIONS,
        *("defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec"),
        *("sync", "async", "dirsync", "remount", "mand", "nomand", "atime", "noatime"),
        *("diratime", "nodiratime", "bind", "rbind", "unbindable", "runbindable"),
        *("relatime", "norelatime", "strictatime", "nostrictatime"),
    )
)


@dataclass(frozen=True, slots=True)
class Bind:
    """One entry of HostConfig.Binds."""

    source: str
    destination: str
    mode: str

    @property
    def is_volume(self) -> bool:
        return not self.source.startswith("/")

    @property
    def options(self) -> list[str]:
        return [option for option in self.mode.split(",") if option]

    @property
    def read_write(self) -> bool:
        return "ro" not in self.options

    @property
    def propagation(self) -> str:
        return next((option for option in self.options if option in PROPAGATIONS), "")


def parse_bind(text: str) -> Bind:
    """``[source:]destination[:options]``, whose form the API has checked."""
    source, destination, mode = (*text.split(":"), "", "")[:3]
    if not destination:
        source, destination = "", source
    return Bind(source, posixpath.normpath(destination), mode)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the container that is being made finds what it mounts."""

    holder: str  # its id: volumes count as used by it from now on
    volumes: VolumeService
    read_only_non_recursive: bool
    find: Callable[[str], pb.Container]  # another container, of --volumes-from
    find_image: Callable[[str], Image]
    image_path: Callable[[Image], str]  # a name for where its files are


async def resolve(config: pb.Config, host: pb.HostConfig, sources: Sources) -> list[pb.MountPoint]:
    """All mount points of a container to be created; missing volumes are made.

    A destination given twice is Docker's error, but what the user gives replaces what
    --volumes-from or the image brings.
    """
    points: dict[str, pb.MountPoint] = {}
    for entry in host.volumes_from.values:
        points.update((point.destination, point) for point in _from_container(entry, sources.find))
    explicit: set[str] = set()
    asked = [await _from_bind(parse_bind(text), sources, host) for text in host.binds.values]
    asked += [await _from_mount(mount, sources) for mount in host.mounts]
    for point in asked:
        if point.destination in explicit or point.destination in host.tmpfs:
            raise InvalidArgument(f"Duplicate mount point: {point.destination}")
        explicit.add(point.destination)
        if point.type == "bind" and not point.read_write:
            point.read_only_non_recursive = sources.read_only_non_recursive
        points[point.destination] = point
    for text in config.volumes.values:
        destination = posixpath.normpath(text)
        if destination not in points and destination not in host.tmpfs:
            points[destination] = await _volume_point(
                sources, "", destination, driver=host.volume_driver
            )
    return list(points.values())


def _from_container(entry: str, find: Callable[[str], pb.Container]) -> Iterable[pb.MountPoint]:
    if not entry:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    reference, _, mode = entry.partition(":")
    if not set(filter(None, mode.split(","))) <= {"ro", "rw", "z", "Z", *PROPAGATIONS}:
        raise InvalidArgument(f"invalid mode: {mode}")
    try:
        other = find(reference)
    except NotFound as error:
        # Not a 404: clients would take it for a missing image, and pull.
        raise InvalidArgument(str(error)) from error
    for point in other.mounts:
        if point.type == "tmpfs":
            continue
        copied = pb.MountPoint()
        copied.CopyFrom(point)
        copied.mode = ""
        copied.read_write = point.read_write and "ro" not in mode.split(",")
        yield copied


async def _from_bind(bind: Bind, sources: Sources, host: pb.HostConfig) -> pb.MountPoint:
    if bind.is_volume:
        return await _volume_point(
            sources,
            bind.source,
            bind.destination,
            driver=host.volume_driver,
            mode=bind.mode or "z",
            read_write=bind.read_write,
        )
    return pb.MountPoint(
        type="bind",
        source=posixpath.normpath(bind.source),
        destination=bind.destination,
        mode=bind.mode,
        read_write=bind.read_write,
        propagation=bind.propagation or "rprivate",
    )


async def _from_mount(mount: pb.Mount, sources: Sources) -> pb.MountPoint:
    destination = posixpath.normpath(mount.target)
    if mount.type == "tmpfs":
        return pb.MountPoint(type="tmpfs", destination=destination, read_write=not mount.read_only)
    if mount.type == "volume":
        point = await _volume_point(
            sources,
            mount.source,
            destination,
            driver=mount.volume.driver,
            options=dict(mount.volume.driver_options) if mount.volume.has_driver_options else None,
            labels=dict(mount.volume.labels) if mount.volume.has_labels else None,
            mode="z",
            read_write=not mount.read_only,
        )
        point.subpath = mount.volume.subpath
        return point
    if mount.type == "bind":
        return _bind_point(mount, destination)
    if mount.type == "image":
        image = sources.find_image(mount.source)
        return pb.MountPoint(
            type="image",
            name=mount.source,
            source=sources.image_path(image),
            destination=destination,
            read_write=not mount.read_only,
            propagation="rprivate",
            image_id=image.id,
            subpath=mount.image.subpath,
        )
    raise NotSupported(f'mounts of type "{mount.type}" are not supported')


def _bind_point(mount: pb.Mount, destination: str) -> pb.MountPoint:
    if not os.path.exists(mount.source) and not mount.bind.create_mountpoint:
        raise InvalidArgument(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        )
    return pb.MountPoint(
        type="bind",
        source=posixpath.normpath(mount.source),
        destination=destination,
        read_write=not mount.read_only,
        propagation=mount.bind.propagation or "rprivate",
    )


async def _volume_point(
    sources: Sources,
    name: str,
    destination: str,
    *,
    driver: str = "",
    options: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    mode: str = "",
    read_write: bool = True,
) -> pb.MountPoint:
    volume = await sources.volumes.create(
        name, driver=driver, options=options, labels=labels, holder=sources.holder
    )
    return pb.MountPoint(
        type="volume",
        name=volume.name,
        source=sources.volumes.path(volume),
        destination=destination,
        driver=volume.driver,
        mode=mode,
        read_write=read_write,
    )


def oci_mounts(
    container: pb.Container,
    staged: Mapping[str, str],
    remap: Remap | None = None,
    is_own: Callable[[str], bool] = lambda _volume: False,
) -> list[Json]:
    """The mounts as the runtime makes them, with missing bind sources made as Docker makes them.

    ``staged`` says by destination what is mounted from elsewhere than its source (staging.py).
    With ``remap`` volumes whose files ``is_own`` calls the engine's are mapped, and binds are not.
    """
    host = container.host_config
    mounts = {posixpath.normpath(mount.target): mount for mount in host.mounts}
    result = [
        _tmpfs(destination, options.split(",") if options else [])
        for destination, options in host.tmpfs.items()
    ]
    for point in container.mounts:
        asked = mounts.get(point.destination, pb.Mount())
        if point.type == "tmpfs":
            result.append(_tmpfs(point.destination, _tmpfs_options(asked)))
        else:
            source = staged.get(point.destination, point.source)
            if point.type == "bind" and not os.path.lexists(source):
                _make_source(source, remap)
            mount = _bind(point, source, asked)
            if remap is not None and point.type == "volume" and is_own(point.name):
                mount |= remap.mappings
            result.append(mount)
    return result


def _make_source(path: str, remap: Remap | None) -> None:
    """For the container's root; what is missing above it is so, too."""
    if remap is None:
        os.makedirs(path, mode=0o755, exist_ok=True)
        return
    parent = os.path.dirname(path)
    if not os.path.lexists(parent):
        _make_source(parent, remap)
    os.mkdir(path, 0o755)
    os.chown(path, *remap.root, follow_symlinks=False)


def _bind(point: pb.MountPoint, source: str, asked: pb.Mount) -> Json:
    recursive = not asked.bind.non_recursive
    options = ["rbind" if recursive else "bind", point.propagation or "rprivate"]
    if not point.read_write or point.type == "image":
        writable_below = point.read_only_non_recursive or asked.bind.read_only_non_recursive
        plain = writable_below or not recursive
        options.append("ro" if plain else "rro")
    return {
        "destination": point.destination,
        "type": "bind",
        "source": source,
        "options": options,
    }


def _tmpfs(destination: str, options: Sequence[str]) -> Json:
    defaults = ["noexec", "nosuid", "nodev", "rprivate"]
    opposites = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
    replaced = {opposites.get(option) for option in options}
    for option in options:
        name, equals, _ = option.partition("=")
        if name not in (_TMPFS_VALUES if equals else _TMPFS_FLAGS):
            raise InternalError(f'invalid tmpfs option "{option}"')
    return {
        "destination": posixpath.normpath(destination),
        "type": "tmpfs",
        "source": "tmpfs",
        "options": [option for option in defaults if option not in replaced] + list(options),
    }


def _tmpfs_options(mount: pb.Mount) -> list[str]:
    options = ["ro"] if mount.read_only else []
    if mount.tmpfs.size_bytes:
        options.append(f"size={mount.tmpfs.size_bytes}")
    if mount.tmpfs.mode:
        options.append(f"mode={mount.tmpfs.mode:o}")
    return options + ["=".join(option.values) for option in mount.tmpfs.options]
