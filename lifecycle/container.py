"""Library of lifecycle: one container as the engine holds it in memory, and all of them with their
table.

The record (protos/containers.proto, ``Container``) is what is stored and what callers get. Beside
it the object has what only lives with this process: the lock, the connection to the shim, who
waits. Reading never takes the lock, so that one stuck container cannot stop a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from common.database import Database
from common.errors import Conflict, InvalidArgument, NotFound
from common.ids import FULL_ID, short
from common.revisions import Row, Table
from lifecycle import status
from lifecycle._pb import containers_pb2 as pb

if TYPE_CHECKING:
    from lifecycle.execs import Exec
    from lifecycle.shims import Shim

MIGRATIONS = (
    """
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL,       -- containers.proto Container, without state
        state BLOB NOT NULL         -- containers.proto State
    )
    """,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a container's run ended, as ``docker wait`` tells it."""

    exit_code: int


class RecordLock(asyncio.Lock):
    """Whoever changes a record has it; what is told of the record meanwhile holds for no longer."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self._row = row

    async def acquire(self) -> Literal[True]:
        await super().acquire()
        self._row.record_changed()
        return True

    def release(self) -> None:
        self._row.record_changed()
        super().release()


@dataclass(eq=False, slots=True)
class Container:
    record: pb.Container
    row: Row
    lock: RecordLock = field(init=False)
    shim: Shim | None = None
    forking: asyncio.Future[Shim] | None = None  # the shim on its way
    # Set while the shim of a run that has ended still cleans up: its paths are not free before.
    ending: asyncio.Future[None] | None = None
    execs: dict[str, Exec] = field(default_factory=dict)
    exit_waiters: list[asyncio.Future[Outcome]] = field(default_factory=list)
    removal_waiters: list[asyncio.Future[Outcome]] = field(default_factory=list)
    # Jobs that write into its files (jobs.py): a start waits for them.
    writers: set[asyncio.Future[Any]] = field(default_factory=set)
    restart_task: asyncio.Task[None] | None = None
    health_task: asyncio.Task[None] | None = None
    restart_delay: float = 0.0  # seconds, of the next automatic restart
    stopping: bool = False  # a client has asked this run to end: no automatic restart
    removing: bool = False  # a client has asked to remove it: no automatic removal
    restarting: bool = False  # a client has asked for that: no automatic removal, either

    def __post_init__(self) -> None:
        self.lock = RecordLock(self.row)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> pb.Status:
        return self.record.state.status

    @property
    def has_process(self) -> bool:
        return status.has_process(self.status)

    @property
    def open_execs(self) -> list[Exec]:
        """Those that run or have not been started yet."""
        return [execution for execution in self.execs.values() if execution.exit_code is None]

    def execs_changed(self) -> None:
        self.row.execs_changed(exist=bool(self.open_execs))

    def next_exit(self) -> asyncio.Future[Outcome]:
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.exit_waiters.append(waiter)
        return waiter

    def removal(self) -> asyncio.Future[Outcome]:
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.removal_waiters.append(waiter)
        return waiter


def release(waiters: list[asyncio.Future[Outcome]], outcome: Outcome) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(outcome)
    waiters.clear()


class ContainerTable:
    """Every container by id and name. The caller holds a container's lock to change its record."""

    def __init__(self, database: Database, revisions: Table) -> None:
        database.migrate("containers", MIGRATIONS)
        self._database = database
        self.revisions = revisions
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._reserved: dict[str, str] = {}
        for record, state in database.connection.execute("SELECT record, state FROM containers"):
            message = pb.Container.FromString(record)
            message.state.CopyFrom(pb.State.FromString(state))
            self._index(message)

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._by_id

    def find(self, reference: str) -> Container:
        """By full id, then name, then unique prefix of an id; raises Docker's errors."""
        found = self._by_id.get(reference) or self._by_name.get(reference.removeprefix("/"))
        if found is None and reference and not FULL_ID.fullmatch(reference):
            matches = [item for key, item in self._by_id.items() if key.startswith(reference)]
            if len(matches) > 1:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
            found = matches[0] if matches else None
        if found is None:
            raise NotFound(f"No such container: {reference}")
        return found

    def get(self, container_id: str) -> Container | None:
        return self._by_id.get(container_id)

    def is_taken(self, name: str) -> bool:
        return name in self._by_name or name in self._reserved

    def reserve(self, name: str, container_id: str) -> None:
        """Hold a name while its container is being made; raises Docker's conflict."""
        holder = self._by_name.get(name)
        owner = holder.id if holder else self._reserved.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._reserved[name] = container_id

    def unreserve(self, name: str) -> None:
        self._reserved.pop(name, None)

    def add(self, record: pb.Container) -> Container:
        rest, state = _split(record)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO containers VALUES (?, ?, ?, ?)", (record.id, record.name, rest, state)
            )
        self.unreserve(record.name)
        return self._index(record)

    def save(self, container: Container) -> None:
        """Everything of the record."""
        container.row.record_changed()
        record, state = _split(container.record)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE containers SET name = ?, record = ?, state = ? WHERE id = ?",
                (container.name, record, state, container.id),
            )

    def save_state(self, container: Container) -> None:
        container.row.record_changed()
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE containers SET state = ? WHERE id = ?",
                (container.record.state.SerializeToString(), container.id),
            )

    def transition(self, container: Container, new: pb.Status) -> None:
        """Change the status; the caller saves it with what else has changed."""
        status.check(container.status, new)
        container.record.state.status = new

    def rename(self, container: Container, name: str) -> None:
        self.reserve(name, container.id)
        old = container.name
        container.record.name = name
        try:
            self.save(container)
        except BaseException:
            container.record.name = old
            raise
        finally:
            self.unreserve(name)
        del self._by_name[old]
        self._by_name[name] = container

    def remove(self, container: Container) -> None:
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container.id,))
        del self._by_id[container.id]
        del self._by_name[container.name]
        self.revisions.give_back(container.row)

    def _index(self, record: pb.Container) -> Container:
        container = Container(record, self.revisions.take())
        self._by_id[container.id] = container
        self._by_name[container.name] = container
        return container


def _split(record: pb.Container) -> tuple[bytes, bytes]:
    stored = pb.Container()
    stored.CopyFrom(record)
    stored.ClearField("state")
    return stored.SerializeToString(), record.state.SerializeToString()


def describe(container: Container) -> str:
    """For the engine's own log."""
    return f"{container.name} ({short(container.id)})"
