"""Library: the engine's one SQLite file; lifecycle opens it, and hands it to images/.

Each component owns its tables and brings its own list of migrations; a schema is never edited, only
appended to. WAL with synchronous=NORMAL: a commit needs no fsync, survives kill -9 of any process,
and after a power cut the newest commits may be missing but the file is whole. Checkpoints, which do
fsync, run on a thread of their own so that no container start waits for the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InternalError

CHECKPOINT_SECONDS = 20.0


class Database:
    """One connection, used from lifecycle's event loop only: statements here take microseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "wal_autocheckpoint=0",
            "foreign_keys=ON",
            "busy_timeout=5000",
        ):
            self.connection.execute(f"PRAGMA {pragma}").close()
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version"
            " (component TEXT PRIMARY KEY, version INTEGER)"
        )
        self._depth = 0
        self._stop = threading.Event()
        self._checkpointer = threading.Thread(target=self._checkpoint, daemon=True)
        self._checkpointer.start()

    def migrate(self, component: str, migrations: Sequence[str]) -> None:
        """Bring ``component``'s tables to ``len(migrations)``; each entry is an SQL script.

        Raises InternalError where the file was written by a newer engine.
        """
        row = self.connection.execute(
            "SELECT version FROM schema_version WHERE component = ?", (component,)
        ).fetchone()
        version = row[0] if row else 0
        if version > len(migrations):
            raise InternalError(
                f"{self.path}: {component} has schema {version}, this engine knows"
                f" {len(migrations)}"
                ": a newer version of the engine wrote it, use that one"
            )
        for number in range(version, len(migrations)):
            with self.transaction():
                for statement in filter(str.strip, migrations[number].split(";")):
                    self.connection.execute(statement)
                self.connection.execute(
                    "INSERT OR REPLACE INTO schema_version VALUES (?, ?)", (component, number + 1)
                )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; a transaction inside another joins it."""
        if self._depth:
            yield self.connection
            return
        self.connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        else:
            self.connection.execute("COMMIT")
        finally:
            self._depth -= 1

    def close(self) -> None:
        self._stop.set()
        self._checkpointer.join()
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        self.connection.close()

    def _checkpoint(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        while not self._stop.wait(CHECKPOINT_SECONDS):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        connection.close()
