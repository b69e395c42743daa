"""Library of lifecycle: calls to network and IPAM plugins that acquire something, and their end.

Nothing is acquired that is not in the journal (remote_journal.py). What cannot be undone because
its plugin is away is tried again, now and then, until the plugin is back; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any
from weakref import WeakValueDictionary

from common.database import Database
from common.errors import EngineError, InternalError, NotFound
from lifecycle import remote_drivers as drivers
from lifecycle.plugins import Plugin, PluginAway, PluginRefused, Plugins
from lifecycle.remote_drivers import Json, Step
from lifecycle.remote_journal import Entry, Journal

log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

# How long a client waits for the end of what a plugin is told; it is told all the same.
FAREWELL_SECONDS = 15.0
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0


class RemoteCalls:
    def __init__(self, database: Database, plugins: Plugins, spawn: Spawn) -> None:
        self.plugins = plugins
        self._journal = Journal(database)
        self._spawn = spawn
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._retry: asyncio.Task[None] | None = None
        self._away: set[str] = set()  # plugins of which that was logged
        # Owners that exist, or are just being made: what others have is to be given back.
        self.owners: set[str] = set()

    async def acquire(
        self, owner: str, step: Step, undo: Callable[[Json], tuple[str, Json]] | None = None
    ) -> Json:
        """Ask for something, which ``owner`` has from then on.

        ``undo`` says from the answer how to give it back, where that was not known before.
        """
        plugin = await self.plugins.get(step.plugin, step.interface)
        where = (owner, step.plugin, step.interface)
        entry = (
            self._journal.add(*where, step.undo, step.undo_body, sure=False) if step.undo else None
        )
        try:
            answer = await plugin.call(step.method, step.body)
        except (PluginAway, PluginRefused) as error:
            if entry is not None:
                self._journal.remove(entry)
            raise _told(error) from error
        how = undo(answer) if undo is not None else ("", None)
        if entry is not None:
            self._journal.confirm(entry, *how)
        elif how[1] is not None:
            self._journal.add(*where, how[0], how[1], sure=True)
        return answer

    async def ask(self, name: str, interface: str, method: str, body: Json) -> Json:
        """A call that acquires nothing."""
        plugin = await self.plugins.get(name, interface)
        try:
            return await plugin.call(f"{interface}.{method}", body)
        except PluginRefused as error:
            raise _told(error) from error

    def hand_over(self, owner: str, heir: str) -> None:
        """What ``owner`` has is ``heir``'s from now on."""
        if owner != heir:
            self._journal.hand_over(owner, heir)
            self.owners.discard(owner)

    def has(self, owner: str, method: str) -> bool:
        """Whether ``owner`` has something that ``method`` would give back."""
        return any(entry.method == method for entry in self._journal.of(owner))

    async def undo_one(self, owner: str, method: str) -> None:
        for entry in self._journal.of(owner):
            if entry.method == method:
                await self._undo_entry(entry)

    async def release(self, owners: Iterable[str]) -> None:
        """Give back all that they have; a plugin that is slow does not keep the caller for long."""
        gone = list(owners)
        self.owners.difference_update(gone)
        task = self._spawn(self._release(gone), "telling plugins what is over")
        await asyncio.wait({task}, timeout=FAREWELL_SECONDS)

    async def _release(self, owners: list[str]) -> None:
        for owner in owners:
            await self._undo(owner)
        self._watch()

    async def sweep(self, plugin: str) -> None:
        """Give back what owners have that are no more."""
        orphans = {
            entry.owner
            for entry in self._journal
            if entry.plugin == plugin and entry.owner not in self.owners
        }
        for owner in sorted(orphans):
            if not await self._undo(owner):
                return

    def start(self, owners: Collection[str]) -> None:
        """After a start of lifecycle: these exist. What others have is given back meanwhile."""
        self.owners.update(owners)
        if self._orphaned():
            self._spawn(self._sweep_all(), "telling plugins what is over")

    def _orphaned(self) -> set[str]:
        """The plugins that still hold something of an owner that is no more."""
        return {entry.plugin for entry in self._journal if entry.owner not in self.owners}

    async def _sweep_all(self) -> None:
        await asyncio.gather(*map(self.sweep, self._orphaned()))
        self._watch()

    def _watch(self) -> None:
        if self._orphaned() and (self._retry is None or self._retry.done()):
            self._retry = self._spawn(self._try_again(), "telling plugins what is over")

    async def _try_again(self) -> None:
        delay = FIRST_RETRY
        while self._orphaned():
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY)
            await asyncio.gather(*map(self.sweep, self._orphaned()))

    async def _undo(self, owner: str) -> bool:
        """The last thing first; False if there is something left."""
        lock = self._locks.setdefault(owner, asyncio.Lock())
        async with lock:
            for entry in reversed(self._journal.of(owner)):
                if not await self._undo_entry(entry):
                    return False
        return True

    async def _undo_entry(self, entry: Entry) -> bool:
        try:
            plugin = await self.plugins.get(entry.plugin, entry.interface, patience=0)
            await self._call_back(plugin, entry)
        except PluginRefused as error:
            # As with Docker: it says no, so it has nothing of ours, or would say no for ever.
            log.warning("%s of the plugin %s: %s", entry.method, entry.plugin, error)
        except (NotFound, InternalError) as error:
            if entry.plugin not in self._away:
                log.warning("the plugin %s will be told later: %s", entry.plugin, error)
                self._away.add(entry.plugin)
            return False
        self._away.discard(entry.plugin)
        self._journal.remove(entry)
        return True

    async def _call_back(self, plugin: Plugin, entry: Entry) -> None:
        if entry.method == drivers.REQUEST_POOL:
            await self._find_pool(plugin, entry)
        elif entry.sure or entry.method != drivers.RELEASE_ADDRESS or not self._is_held(entry):
            await plugin.call(entry.method, entry.parsed(), patience=0)

    def _is_held(self, entry: Entry) -> bool:
        """Somebody has it for sure, so that whoever is not sure never got it."""
        return any(other.sure and other.equals(entry) for other in self._journal)

    async def _find_pool(self, plugin: Plugin, entry: Entry) -> None:
        """Nobody knows whether the pool was given: asking for it again tells which it is.

        Plugins count their pools' users. So it is given back twice, the second time for a first
        answer that was lost; unless another network has the pool, whose it would be.
        """
        answer = await plugin.call(entry.method, entry.parsed(), patience=0)
        method, body = drivers.release_pool(str(answer.get("PoolID")))
        release = self._journal.confirm(entry, method, body)
        held = any(one.id != entry.id and one.equals(release) for one in self._journal)
        await plugin.call(method, body, patience=0)
        if not held:
            await plugin.call(method, body, patience=0)


def _told(error: EngineError) -> EngineError:
    """A driver's own words are marked as such, as Docker does."""
    if isinstance(error, PluginRefused) and error.status == 200:
        return InternalError(f"remote: {error}")
    return error
