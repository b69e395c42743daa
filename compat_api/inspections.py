"""longshored: answers to ``docker inspect`` that still hold.

Clients inspect a container before nearly all that they do with it. An answer is kept as the bytes
that were sent, with the numbers that lifecycle gave for it (common/revisions.py), and sent again
as long as those stand: then nothing of the container has changed.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.revisions import View
from lifecycle._pb import containers_pb2 as pb

MAX_KEPT = 256  # answers, of 8 KB each


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    row: int
    numbers: tuple[int, int]


class Inspections:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._view: View | None = None
        self._answers: dict[tuple[str, Hashable], _Answer] = {}

    def get(self, reference: str, form: Hashable) -> bytes | None:
        """The answer in that form, which is all that it depends on besides the container."""
        answer = self._answers.get((reference, form))
        if answer is None or self._view is None:
            return None
        numbers = self._view.numbers(answer.row)
        if numbers == answer.numbers:
            return answer.body
        # With no exec again, it will be right again.
        if numbers[0] != answer.numbers[0]:
            del self._answers[reference, form]
        return None

    def keep(self, reference: str, form: Hashable, container: pb.Container, body: bytes) -> None:
        told = container.revision
        # A part of an id may come to mean another container without a change of this one.
        if not told.row or reference not in (container.id, container.name):
            return
        view = self._open()
        if view is None or view.instance != told.instance:
            return
        key = reference, form
        self._answers.pop(key, None)
        while len(self._answers) >= MAX_KEPT:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = _Answer(body, told.row, (told.record, told.execs))

    def forget(self) -> None:
        """Lifecycle is dead: its numbers do not change any more, and say nothing."""
        self._path.unlink(missing_ok=True)
        self._view = None
        self._answers.clear()

    def _open(self) -> View | None:
        if self._view is None:
            with suppress(OSError):
                self._view = View(self._path)
        return self._view
