"""Library of lifecycle: the volume driver "local".

On disk ``<data-root>/volumes/<name>/_data``. A volume with a device (an NFS share, a tmpfs, another
directory) is mounted there when a container first uses it, and unmounted after the last one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from common.errors import InternalError, InvalidArgument
from common.ids import new_id
from lifecycle import hostmounts

NAME = "local"

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_OPTIONS = frozenset({"type", "device", "o", "size"})
# An option, and what has to be given with it.
_COMPANIONS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?[kmgtp]?(?:i?b)?", re.ASCII | re.IGNORECASE)
_REMOVING = ".removing-"

Options = Mapping[str, str]


def check_name(name: str) -> None:
    if len(name) == 1:
        raise InvalidArgument(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidArgument(
            f'"{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )


def check_options(options: Options) -> None:
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgument(f'invalid option: "{option}"')
    for option, companions in _COMPANIONS.items():
        for companion in companions:
            if option in options and companion not in options:
                raise InvalidArgument(f'missing required option: "{companion}"')
    if "size" in options:
        size = _SIZE.fullmatch(options["size"])
        if size is None:
            raise InvalidArgument(f"invalid size: '{options['size']}'")
        if float(size[1]) > 0:
            raise InvalidArgument("quota size requested but no quota support")


class LocalDriver:
    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o711, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._root / name / "_data"

    def create(self, name: str) -> None:
        self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(self._root / name, 0o701)

    def remove(self, name: str) -> Path | None:
        """Takes the volume out of its place at once; ``discard`` removes what it had."""
        directory = self._root / name
        doomed = self._root / f"{_REMOVING}{new_id()}"
        self._unmount_below(directory)
        try:
            directory.rename(doomed)
        except FileNotFoundError:
            return None
        return doomed

    def discard(self, doomed: Path) -> None:
        """Blocking. What is mounted there is somebody else's data."""
        self._unmount_below(doomed)
        shutil.rmtree(doomed)

    def sweep(self) -> None:
        """Finish removals that a crash cut off. Directories without a record are left alone."""
        for leftover in self._root.glob(f"{_REMOVING}*"):
            self.discard(leftover)

    async def mount(self, name: str, options: Options) -> None:
        """Have the volume's device where its files are looked for."""
        path = self.path(name)
        if not options.get("device"):
            if not path.is_dir():
                raise InternalError(f"failed to chmod on {path}: no such file or directory")
            return
        if hostmounts.is_mounted(path):
            return
        # In a thread, since a server may take its time; a cancelled start must not forget it.
        await asyncio.shield(asyncio.to_thread(_mount, path, options))

    async def unmount(self, name: str, options: Options) -> None:
        if options.get("device"):
            await asyncio.to_thread(hostmounts.unmount, self.path(name))

    @staticmethod
    def _unmount_below(directory: Path) -> None:
        for point in hostmounts.below(directory):
            hostmounts.unmount(point)


def _mount(path: Path, options: Options) -> None:
    filesystem, chosen = options["type"], options.get("o", "")
    try:
        if filesystem in ("nfs", "cifs"):
            chosen = _with_address(chosen)
        hostmounts.mount(options["device"], path, filesystem, chosen)
    except InternalError as error:
        text = re.sub(r"\bpassword=[^,:]*", "password=********", str(error))
        raise InternalError(f"failed to mount local volume: {text}") from error


def _with_address(options: str) -> str:
    """The kernel knows no names: ``addr=server`` becomes the server's address."""
    found = re.search(r"(?:^|,)addr=([^,]*)", options)
    if found is None or not found[1]:
        return options
    try:
        ipaddress.ip_address(found[1])
    except ValueError:
        try:
            address = socket.getaddrinfo(found[1], None, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            raise InternalError(
                f"error resolving passed in network volume address: {error.strerror}"
            ) from error
        return options.replace(f"addr={found[1]}", f"addr={address}", 1)
    return options
