"""longshored: what is wrong with a mount or a bind by its text.

Called for each one by container_checks.py. Whether a source exists is lifecycle's to see.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from common.errors import InternalError, InvalidArgument
from lifecycle._pb import containers_pb2 as pb

PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_MODE_KINDS = (
    frozenset(("rw", "ro")),
    frozenset(("z", "Z")),
    PROPAGATIONS,
    frozenset(("nocopy",)),
    frozenset(("consistent", "cached", "delegated")),
)


def check_mount(mount: pb.Mount) -> None:
    try:
        check_mount_destination(mount.target)
        check_mount_options(mount)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"invalid mount config for type {quoted(mount.type)}: {error}"
        ) from None


def check_mount_destination(path: str) -> None:
    if not path:
        raise InvalidArgument("field Target must not be empty")
    if posixpath.normpath(path).strip("/") == "" and path.startswith("/"):
        raise InvalidArgument("invalid specification: destination can't be '/'")
    if not path.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{path}' mount path must be absolute")


def check_mount_options(mount: pb.Mount) -> None:
    if mount.type in ("bind", "image") and not mount.source:
        raise InvalidArgument("field Source must not be empty")
    if mount.type == "bind":
        propagation = mount.bind.propagation
        if propagation and propagation not in PROPAGATIONS:
            raise InvalidArgument(f"invalid propagation mode: {propagation}")
        refuse_image_options(mount)
        if not mount.source.startswith("/"):
            raise InvalidArgument(
                f"invalid mount path: '{mount.source}' mount path must be absolute"
            )
    elif mount.type == "volume":
        refuse_image_options(mount)
        if mount.volume.subpath:
            if not mount.source:
                raise InvalidArgument("must not set Subpath when using anonymous volumes")
            check_subpath(mount.volume.subpath)
        if mount.read_only and not mount.source:
            raise InvalidArgument("must not set ReadOnly mode when using anonymous volumes")
    elif mount.type == "tmpfs":
        refuse_image_options(mount)
        if mount.source:
            raise InvalidArgument("field Source must not be specified")
        check_tmpfs_options([list(option.values) for option in mount.tmpfs.options])
    elif mount.type == "image":
        if mount.image.subpath:
            check_subpath(mount.image.subpath)
    else:
        raise InvalidArgument("mount type unknown")


def refuse_image_options(mount: pb.Mount) -> None:
    if mount.HasField("image"):
        raise InvalidArgument("field ImageOptions must not be specified")


def check_subpath(path: str) -> None:
    """The path stays below the directory that it is relative to, by its text."""
    if path.startswith("/") or posixpath.normpath(path).split("/")[0] == "..":
        raise InvalidArgument("subpath must be a relative path within the volume")


def check_tmpfs_options(options: list[list[str]]) -> None:
    for option in options:
        if not 1 <= len(option) <= 2:
            raise InvalidArgument("invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise InvalidArgument(f"invalid option: {option[0]}")


def check_mount_types(mounts: Iterable[pb.Mount]) -> None:
    """Options belong to mounts of their own type."""
    for mount in mounts:
        for field, name, kind in (
            ("volume", "VolumeOptions", "volume"),
            ("bind", "BindOptions", "bind"),
            ("tmpfs", "TmpfsOptions", "tmpfs"),
        ):
            if mount.HasField(field) and mount.type != kind:
                raise InvalidArgument(
                    f"{name} must not be specified on mount type {quoted(mount.type)}"
                )


def check_bind(bind: str) -> None:
    """``source:destination[:mode]``; a source without a slash in front is a volume's name.

    Docker answers what is wrong with a bind with status 500.
    """
    parts = bind.split(":", 3)
    invalid = f"invalid volume specification: '{bind}'"
    if not parts[0] or len(parts) == 4 or (len(parts) == 2 and is_bind_mode(parts[1])):
        raise InternalError(invalid)
    if len(parts) == 3 and not is_bind_mode(parts[2]):
        raise InternalError(f"invalid mode: {parts[2]}")
    source, target = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    kind = "bind" if source.startswith("/") else "volume"
    try:
        check_mount_destination(target)
    except InvalidArgument as error:
        raise InternalError(f'{invalid}: invalid mount config for type "{kind}": {error}') from None


def is_bind_mode(mode: str) -> bool:
    """Comma-separated options, at most one of each kind."""
    if not mode:
        return True
    options = mode.split(",")
    found = [kind for option in options for kind in _MODE_KINDS if option in kind]
    return len(found) == len(options) == len({id(kind) for kind in found})


def quoted(text: str) -> str:
    """In double quotes, as Go's %q writes plain text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
