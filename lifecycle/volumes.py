"""Library of lifecycle: volumes of the local driver.

On disk ``<data-root>/volumes/<name>/_data``. A volume's directory is only ever removed by
``remove`` and ``prune``, and by the removal of a container for anonymous ones. Who uses a volume is
not stored: the containers' own records say it, so a count cannot be wrong after a crash.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from common.database import Database
from common.errors import Conflict, InvalidArgument, NotFound
from common.ids import new_id
from lifecycle import filters as filtering
from lifecycle._pb import networks_pb2 as pb
from lifecycle._pb.types_pb2 import Filter, PruneReport
from lifecycle.events import EventLog

MIGRATIONS = (
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        created INTEGER NOT NULL,      -- ns since 1970
        anonymous INTEGER NOT NULL,    -- 1: nobody gave it a name
        labels TEXT,                   -- JSON object, NULL if none were given
        options TEXT                   -- JSON object, NULL if none were given
    )
    """,
)

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_OPTIONS = frozenset({"type", "device", "o", "size"})
_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})

# volume name -> ids of the containers that have it, running or not
Users = Callable[[], Mapping[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Volume:
    name: str
    created: int
    anonymous: bool
    labels: Mapping[str, str] | None
    options: Mapping[str, str] | None
    directory: Path
    # Held while its first content is copied from an image.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)

    @property
    def mountpoint(self) -> Path:
        return self.directory / "_data"


class VolumeService:
    def __init__(self, database: Database, root: Path, events: EventLog, users: Users) -> None:
        database.migrate("volumes", MIGRATIONS)
        self._database = database
        self._root = root
        self._events = events
        self._users = users
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._volumes = {volume.name: volume for volume in self._rows()}

    def create(
        self,
        name: str,
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume of that name, made if it is not there; no name: an anonymous one."""
        if driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
        self._check(name, options or {})
        if name in self._volumes:
            return self._volumes[name]
        chosen = name or new_id()
        volume = Volume(
            chosen, time.time_ns(), not name, labels, options, directory=self._root / chosen
        )
        volume.mountpoint.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(volume.directory, 0o701)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)",
                (volume.name, volume.created, volume.anonymous, _json(labels), _json(options)),
            )
        self._volumes[volume.name] = volume
        self._publish("create", volume)
        return volume

    def get(self, name: str) -> Volume:
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def list_all(self, filters: Iterable[Filter]) -> list[Volume]:
        wanted = filtering.by_key(filters, _FILTERS)
        used = self._users()
        dangling = filtering.boolean(wanted, "dangling")
        return [
            volume
            for volume in self._volumes.values()
            if (dangling is None or dangling == (volume.name not in used))
            and ("driver" not in wanted or "local" in wanted["driver"])
            and ("name" not in wanted or filtering.match_name(volume.name, wanted["name"]))
            and filtering.match_labels(volume.labels or {}, wanted.get("label", ()))
        ]

    async def remove(self, name: str, *, force: bool = False) -> None:
        if force and name not in self._volumes:
            return
        volume = self.get(name)
        users = self._users().get(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(sorted(users))}]")
        await self._delete(volume)

    async def prune(self, filters: Iterable[Filter]) -> PruneReport:
        """Remove unused volumes: anonymous ones, or with ``all`` named ones too."""
        wanted = filtering.by_key(filters, _PRUNE_FILTERS)
        also_named = filtering.boolean(wanted, "all") or False
        report = PruneReport()
        for volume in list(self._volumes.values()):
            labels = volume.labels or {}
            if (
                (volume.anonymous or also_named)
                and volume.name not in self._users()
                and filtering.match_labels(labels, wanted.get("label", ()))
                and filtering.exclude_labels(labels, wanted.get("label!", ()))
            ):
                size = await self.size(volume)
                await self._delete(volume)
                report.deleted.append(volume.name)
                report.space_reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(report.space_reclaimed)})
        return report

    async def size(self, volume: Volume) -> int:
        return await asyncio.to_thread(tree_size, volume.mountpoint)

    async def describe(self, volume: Volume, *, usage: bool = False) -> pb.Volume:
        message = pb.Volume(
            name=volume.name,
            driver="local",
            mountpoint=os.fspath(volume.mountpoint),
            created=volume.created,
            labels=dict(volume.labels or {}),
            options=dict(volume.options or {}),
            anonymous=volume.anonymous,
            has_labels=volume.labels is not None,
            has_options=volume.options is not None,
            size=-1,
            ref_count=-1,
        )
        if usage:
            message.size = await self.size(volume)
            message.ref_count = len(self._users().get(volume.name, ()))
        return message

    async def _delete(self, volume: Volume) -> None:
        """The record goes first: what a crash leaves is a directory, found as unknown at start."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE name = ?", (volume.name,))
        del self._volumes[volume.name]
        doomed = self._root / f".removing-{new_id()}"
        volume.directory.rename(doomed)
        self._publish("destroy", volume)
        await asyncio.to_thread(shutil.rmtree, doomed)

    def sweep(self) -> None:
        """Finish removals that a crash cut off. Directories without a record are left alone."""
        for leftover in self._root.glob(".removing-*"):
            shutil.rmtree(leftover)

    def _publish(self, action: str, volume: Volume) -> None:
        self._events.publish("volume", action, volume.name, {"driver": "local"})

    def _check(self, name: str, options: Mapping[str, str]) -> None:
        if name and not _NAME.fullmatch(name):
            raise InvalidArgument(
                f'create {name}: "{name}" includes invalid characters for a local volume name, '
                'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host '
                "directory, use absolute path"
            )
        if len(name) == 1:
            raise InvalidArgument(
                f"create {name}: volume name is too short, names should be at least two "
                "alphanumeric characters"
            )
        for option in options:
            if option not in _OPTIONS:
                raise InvalidArgument(f'create {name}: invalid option: "{option}"')

    def _rows(self) -> Iterable[Volume]:
        for name, created, anonymous, labels, options in self._database.connection.execute(
            "SELECT name, created, anonymous, labels, options FROM volumes"
        ):
            yield Volume(
                name,
                created,
                bool(anonymous),
                orjson.loads(labels) if labels else None,
                orjson.loads(options) if options else None,
                self._root / name,
            )


def _json(value: Mapping[str, str] | None) -> bytes | None:
    return None if value is None else orjson.dumps(dict(value))


def tree_size(root: Path) -> int:
    """Bytes of the regular files below ``root``; a file with several names counts once."""
    total, seen = 0, set()
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                status = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            if status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total
