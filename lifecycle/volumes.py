"""Library of lifecycle: volumes, of the driver "local" and of plugins.

A volume's files are only ever removed by ``remove`` and ``prune``, and by the removal of a
container for anonymous ones. Which containers have a volume is not stored: their own records say
it, so a count cannot be wrong after a crash. Which of them use it now ``adopt`` tells after one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import orjson

from common.database import Database
from common.errors import Conflict, EngineError, NotFound
from common.ids import new_id
from lifecycle import filters as filtering
from lifecycle import volume_local, volume_plugins
from lifecycle._pb import networks_pb2 as pb
from lifecycle._pb.types_pb2 import Filter, PruneReport
from lifecycle.events import EventLog
from lifecycle.plugins import Plugins
from lifecycle.volume_local import LocalDriver
from lifecycle.volume_plugins import PluginVolume

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
    "ALTER TABLE volumes ADD COLUMN driver TEXT NOT NULL DEFAULT 'local'",
)

LOCAL = volume_local.NAME
ANONYMOUS = "com.docker.volume.anonymous"

_FILTERS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_FILTERS = frozenset({"all", "label", "label!"})

# volume name -> ids of the containers that have it, running or not
Users = Callable[[], Mapping[str, list[str]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Volume:
    name: str
    driver: str
    created: int
    anonymous: bool
    labels: Mapping[str, str] | None
    options: Mapping[str, str] | None
    # Held while its first content is copied from an image.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False, repr=False)


class VolumeService:
    def __init__(
        self,
        database: Database,
        root: Path,
        events: EventLog,
        users: Users,
        plugins: Plugins,
    ) -> None:
        database.migrate("volumes", MIGRATIONS)
        self._database = database
        self._events = events
        self._users = users
        self._local = LocalDriver(root)
        self._plugins = plugins
        self._volumes = {volume.name: volume for volume in self._rows()}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # container id -> volumes that it is to have once its record is there
        self._held: dict[str, set[str]] = {}
        # volume name -> who has it mounted now, and by which driver; a container may have it at
        # several places
        self._mounted: dict[str, dict[str, str]] = {}

    async def create(
        self,
        name: str,
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        holder: str = "",
    ) -> Volume:
        """The volume of that name, made if it is not there; no name: an anonymous one.

        It counts as used by ``holder`` until ``release``.
        """
        if not name:
            labels = {**(labels or {}), ANONYMOUS: ""}
        chosen = name or new_id()
        if holder:
            self._held.setdefault(holder, set()).add(chosen)
        with _told("create", name):
            async with self._locked(chosen):
                known = await self._look_up(chosen) if name else None
                if known is not None and driver in ("", known.driver):
                    return known
                await self._check(name, driver, options or {})
                if known is not None:
                    raise Conflict("conflict: volume name must be unique")
                volume = Volume(chosen, driver or LOCAL, time.time_ns(), not name, labels, options)
                await self._make(volume)
        self._publish("create", volume)
        return volume

    def release(self, holder: str) -> None:
        self._held.pop(holder, None)

    async def get(self, name: str) -> Volume:
        volume = await self._look_up(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def path(self, volume: Volume) -> str:
        """Where its files are; of a plugin's volume that is known only while it is mounted."""
        return os.fspath(self._local.path(volume.name)) if volume.driver == LOCAL else ""

    def has_own_files(self, name: str) -> bool:
        """Whether only containers write what is in it, so that its ids are theirs to say."""
        volume = self._volumes.get(name)
        if volume is None or volume.driver != LOCAL:
            return False
        options = volume.options or {}
        return not options.get("device") or options["type"] == "tmpfs"

    def drivers(self) -> list[str]:
        return [LOCAL, *self._plugins.active(volume_plugins.INTERFACE)]

    async def list_all(self, filters: Iterable[Filter]) -> list[Volume]:
        wanted = filtering.by_key(filters, _FILTERS)
        used = self._users()
        dangling = filtering.boolean(wanted, "dangling")
        return [
            volume
            for volume in [*self._volumes.values(), *await self._of_plugins()]
            if (dangling is None or dangling == (volume.name not in used))
            and ("driver" not in wanted or volume.driver in wanted["driver"])
            and ("name" not in wanted or filtering.match_name(volume.name, wanted["name"]))
            and filtering.match_labels(volume.labels or {}, wanted.get("label", ()))
        ]

    async def remove(self, name: str, *, force: bool = False) -> None:
        async with self._locked(name):
            volume = await self._look_up(name)
            if volume is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = self._users_of(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            with _told("remove", name):
                await self._delete(volume, force=force)

    async def prune(self, filters: Iterable[Filter]) -> PruneReport:
        """Remove unused local volumes: anonymous ones, or with ``all`` named ones too."""
        wanted = filtering.by_key(filters, _PRUNE_FILTERS)
        also_named = filtering.boolean(wanted, "all") or False
        report = PruneReport()
        for volume in list(self._volumes.values()):
            labels = volume.labels or {}
            if (
                volume.driver == LOCAL
                and (volume.anonymous or also_named)
                and not self._users_of(volume.name)
                and filtering.match_labels(labels, wanted.get("label", ()))
                and filtering.exclude_labels(labels, wanted.get("label!", ()))
            ):
                size = await self.size(volume)
                try:
                    await self.remove(volume.name)
                except (NotFound, Conflict):
                    continue  # somebody was faster
                report.deleted.append(volume.name)
                report.space_reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(report.space_reclaimed)})
        return report

    async def size(self, volume: Volume) -> int:
        """Bytes of its files; -1 where they are a plugin's, or another machine's."""
        if volume.driver != LOCAL or (volume.options or {}).get("device"):
            return -1
        return await asyncio.to_thread(tree_size, self._local.path(volume.name))

    async def describe(self, volume: Volume, *, usage: bool = False) -> pb.Volume:
        message = pb.Volume(
            name=volume.name,
            driver=volume.driver,
            mountpoint=self.path(volume),
            created=volume.created,
            labels=dict(volume.labels or {}),
            options=dict(volume.options or {}),
            anonymous=volume.anonymous,
            has_labels=volume.labels is not None,
            has_options=volume.options is not None,
            scope="local",
            size=-1,
            ref_count=-1,
        )
        if volume.driver != LOCAL:
            await self._add_plugin_facts(message)
        if usage:
            message.size = await self.size(volume)
            message.ref_count = len(self._users().get(volume.name, ()))
        return message

    # Use

    async def mount(self, name: str, user: str) -> str:
        """Where ``user``, whom nobody else is, finds the files until it unmounts it."""
        async with self._locked(name):
            volume = await self.get(name)
            if volume.driver == LOCAL:
                await self._local.mount(name, volume.options or {})
                path = self.path(volume)
            else:
                driver = await volume_plugins.find(self._plugins, volume.driver)
                path = os.fspath(await driver.mount(name, _opaque(user)))
            self._mounted.setdefault(name, {})[user] = volume.driver
        return path

    async def unmount(self, name: str, user: str) -> bool:
        """False if ``user`` had not mounted it."""
        async with self._locked(name):
            users = self._mounted.get(name, {})
            if user not in users:
                return False
            name_of_driver = users.pop(user)
            if not users:
                del self._mounted[name]
            if name_of_driver != LOCAL:
                driver = await volume_plugins.find(self._plugins, name_of_driver)
                await driver.unmount(name, _opaque(user))
            elif not users and name in self._volumes:
                await self._local.unmount(name, self._volumes[name].options or {})
        return True

    def adopt(self, name: str, user: str, driver: str) -> None:
        """``user`` had mounted it before this process was started, and still uses it."""
        self._mounted.setdefault(name, {})[user] = driver

    async def sweep(self) -> None:
        """After all were adopted: unmount what nobody uses, finish removals."""
        for volume in self._volumes.values():
            if volume.driver == LOCAL and volume.name not in self._mounted:
                await self._local.unmount(volume.name, volume.options or {})
        await asyncio.to_thread(self._local.sweep)

    # Inside

    def _locked(self, name: str) -> asyncio.Lock:
        """One at a time for each volume: plugins and servers may be slow."""
        return self._locks.setdefault(name, asyncio.Lock())

    def _users_of(self, name: str) -> list[str]:
        held = [holder for holder, names in self._held.items() if name in names]
        return sorted({*self._users().get(name, ()), *held})

    async def _check(self, name: str, driver: str, options: Mapping[str, str]) -> None:
        if driver not in ("", LOCAL):
            await volume_plugins.find(self._plugins, driver)
            return
        if name:
            volume_local.check_name(name)
        volume_local.check_options(options)

    async def _make(self, volume: Volume) -> None:
        if volume.driver == LOCAL:
            self._local.create(volume.name)
        else:
            driver = await volume_plugins.find(self._plugins, volume.driver)
            await driver.create(volume.name, volume.options or {})
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO volumes (name, created, anonymous, labels, options, driver)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(volume.name, volume.created, volume.anonymous),
                    *(_json(volume.labels), _json(volume.options), volume.driver),
                ),
            )
        self._volumes[volume.name] = volume

    async def _delete(self, volume: Volume, *, force: bool) -> None:
        """The record goes first: what a crash leaves is a directory, found as unknown at start."""
        doomed = None
        if volume.driver != LOCAL:
            try:
                driver = await volume_plugins.find(self._plugins, volume.driver)
                await driver.remove(volume.name)
            except NotFound:
                if not force:
                    raise
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE name = ?", (volume.name,))
        self._volumes.pop(volume.name, None)
        if volume.driver == LOCAL:
            doomed = self._local.remove(volume.name)
        self._publish("destroy", volume)
        if doomed is not None:
            await asyncio.to_thread(self._local.discard, doomed)

    async def _look_up(self, name: str) -> Volume | None:
        if name in self._volumes:
            return self._volumes[name]
        for driver in await volume_plugins.find_all(self._plugins):
            found = await driver.get(name)
            if found is not None:
                return _foreign(driver.name, found)
        return None

    async def _of_plugins(self) -> list[Volume]:
        """Volumes that plugins have and were not made through this engine."""
        found = []
        for driver in await volume_plugins.find_all(self._plugins):
            try:
                listed = await driver.list_all()
            except EngineError as error:
                log.warning("listing the volumes of the plugin %s failed: %s", driver.name, error)
                continue
            found += [
                _foreign(driver.name, item) for item in listed if item.name not in self._volumes
            ]
        return found

    async def _add_plugin_facts(self, message: pb.Volume) -> None:
        try:
            driver = await volume_plugins.find(self._plugins, message.driver)
        except NotFound:
            return  # its plugin is gone; what the record says is all there is
        message.scope = await driver.scope()
        found = await driver.get(message.name)
        if found is not None:
            message.mountpoint = found.mountpoint
            message.status = orjson.dumps(found.status) if found.status else b""

    def _publish(self, action: str, volume: Volume) -> None:
        self._events.publish("volume", action, volume.name, {"driver": volume.driver})

    def _rows(self) -> Iterable[Volume]:
        columns = "name, driver, created, anonymous, labels, options"
        for row in self._database.connection.execute(f"SELECT {columns} FROM volumes"):
            name, driver, created, anonymous, labels, options = row
            yield Volume(
                name,
                driver,
                created,
                bool(anonymous),
                orjson.loads(labels) if labels else None,
                orjson.loads(options) if options else None,
            )


@contextmanager
def _told(operation: str, name: str) -> Iterator[None]:
    """Docker's words for what failed before the words for why."""
    try:
        yield
    except EngineError as error:
        raise type(error)(f"{operation} {name}: {error}") from error


def _foreign(driver: str, found: PluginVolume) -> Volume:
    return Volume(found.name, driver, found.created, False, None, None)


def _opaque(user: str) -> str:
    """The id of a mount as a plugin is told it: the same after a crash."""
    return hashlib.sha256(user.encode()).hexdigest()


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
