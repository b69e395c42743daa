"""Library of lifecycle: which calls to plugins are still to be undone, in a table.

    plugin_calls    id, owner, plugin, interface, method, body, sure

A row stands for something that a plugin holds for this engine, and has the call that gives it back.
``owner`` is a network's or an endpoint's id. The row is written before the plugin is asked, and
``sure`` once it has said yes: after a crash in between, nobody knows. Rows go when they are undone,
so that what a crash or a dead plugin leaves is found by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from common.database import Database

MIGRATIONS = (
    """
    CREATE TABLE plugin_calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        plugin TEXT NOT NULL,
        interface TEXT NOT NULL,
        method TEXT NOT NULL,
        body TEXT NOT NULL,
        sure INTEGER NOT NULL
    )
    """,
)
_COLUMNS = "owner, plugin, interface, method, body, sure"


@dataclass(frozen=True, slots=True)
class Entry:
    id: int
    owner: str
    plugin: str
    interface: str
    method: str
    body: str
    sure: bool

    def parsed(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)
        return found

    def equals(self, other: Entry) -> bool:
        """The same thing of the same plugin."""
        ours = (self.plugin, self.method, self.body)
        return ours == (other.plugin, other.method, other.body)


class Journal:
    def __init__(self, database: Database) -> None:
        database.migrate("remote", MIGRATIONS)
        self._database = database
        rows = database.connection.execute(f"SELECT id, {_COLUMNS} FROM plugin_calls ORDER BY id")
        self._entries = {row[0]: _entry(row) for row in rows}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def of(self, owner: str) -> list[Entry]:
        """In the order in which they were made."""
        return [entry for entry in self if entry.owner == owner]

    def add(
        self,
        owner: str,
        plugin: str,
        interface: str,
        method: str,
        body: dict[str, Any],
        *,
        sure: bool,
    ) -> Entry:
        values = (owner, plugin, interface, method, orjson.dumps(body).decode(), sure)
        with self._database.transaction() as connection:
            cursor = connection.execute(
                f"INSERT INTO plugin_calls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values
            )
        assert cursor.lastrowid is not None, "an insert has an id"
        entry = _entry((cursor.lastrowid, *values))
        self._entries[entry.id] = entry
        return entry

    def confirm(self, entry: Entry, method: str = "", body: dict[str, Any] | None = None) -> Entry:
        """The plugin has done it; the answer may say better how to undo it."""
        changed = replace(
            entry,
            method=method or entry.method,
            body=entry.body if body is None else orjson.dumps(body).decode(),
            sure=True,
        )
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE plugin_calls SET method = ?, body = ?, sure = 1 WHERE id = ?",
                (changed.method, changed.body, changed.id),
            )
        self._entries[changed.id] = changed
        return changed

    def hand_over(self, owner: str, heir: str) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE plugin_calls SET owner = ? WHERE owner = ?", (heir, owner))
        for entry in self.of(owner):
            self._entries[entry.id] = replace(entry, owner=heir)

    def remove(self, entry: Entry) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM plugin_calls WHERE id = ?", (entry.id,))
        self._entries.pop(entry.id, None)


def _entry(row: Sequence[Any]) -> Entry:
    identity, owner, plugin, interface, method, body, sure = row
    return Entry(identity, owner, plugin, interface, method, body, bool(sure))
