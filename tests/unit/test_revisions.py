"""Which answers of lifecycle still hold: the numbers in shared memory, and who goes by them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common import revisions
from common.revisions import Row, Table, View
from compat_api.inspections import MAX_KEPT, Inspections
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import RecordLock

ID = "4" * 64


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "revisions")


@pytest.fixture
def kept(table: Table, tmp_path: Path) -> Inspections:
    return Inspections(tmp_path / "revisions")


def told(table: Table, row: Row) -> pb.Container:
    record, execs = row.numbers
    revision = pb.Revision(instance=table.instance, row=row.index, record=record, execs=execs)
    return pb.Container(id=ID, name="box", revision=revision)


def test_view_sees_the_changes_of_one_row(table: Table, tmp_path: Path) -> None:
    one, other = table.take(), table.take()
    view = View(tmp_path / "revisions")
    before = view.numbers(one.index), view.numbers(other.index)
    one.record_changed()
    assert view.numbers(one.index) == one.numbers != before[0]
    assert view.numbers(other.index) == before[1]


def test_execs_that_have_ended_are_as_none(table: Table) -> None:
    row = table.take()
    before = row.numbers
    row.execs_changed(exist=True)
    first = row.numbers
    row.execs_changed(exist=True)
    assert len({before, first, row.numbers}) == 3
    row.execs_changed(exist=False)
    assert row.numbers == before


def test_a_row_that_is_used_again_has_new_numbers(table: Table, tmp_path: Path) -> None:
    row = table.take()
    before = row.numbers
    index = row.index
    view = View(tmp_path / "revisions")
    table.give_back(row)
    assert view.numbers(index) != before
    again = table.take()
    assert again.index == index
    assert again.numbers != before


def test_a_container_that_is_gone_changes_nothing_of_another(table: Table) -> None:
    """Its lock is left, and its execs end, after its row was given back."""
    gone = table.take()
    table.give_back(gone)
    other = table.take()
    other.execs_changed(exist=True)
    before = other.numbers
    gone.record_changed()
    gone.execs_changed(exist=False)
    assert other.numbers == before


def test_more_containers_than_rows(
    monkeypatch: pytest.MonkeyPatch, table: Table, kept: Inspections
) -> None:
    monkeypatch.setattr(revisions, "MAX_ROWS", 3)
    rows = [table.take() for _ in range(4)]
    assert [row.index for row in rows] == [1, 2, 0, 0]
    kept.keep(ID, None, told(table, rows[3]), b"body")
    assert kept.get(ID, None) is None
    table.give_back(rows[3])
    assert table.take().index == 0


def test_answer_holds_until_a_change(table: Table, kept: Inspections) -> None:
    row = table.take()
    kept.keep(ID, 1, told(table, row), b"body")
    assert kept.get(ID, 1) == b"body"
    assert kept.get(ID, 2) is None
    row.execs_changed(exist=True)
    assert kept.get(ID, 1) is None
    row.execs_changed(exist=False)
    assert kept.get(ID, 1) == b"body"
    row.record_changed()
    assert kept.get(ID, 1) is None


@pytest.mark.parametrize(("reference", "holds"), [(ID, True), ("box", True), (ID[:12], False)])
def test_only_names_that_stay_are_kept(
    table: Table, kept: Inspections, reference: str, holds: bool
) -> None:
    kept.keep(reference, None, told(table, table.take()), b"body")
    assert (kept.get(reference, None) == b"body") is holds


def test_nothing_is_kept_of_a_record_that_is_being_changed(table: Table, kept: Inspections) -> None:
    kept.keep(ID, None, pb.Container(id=ID), b"body")
    assert kept.get(ID, None) is None


def test_what_a_dead_process_told_does_not_hold(
    table: Table, kept: Inspections, tmp_path: Path
) -> None:
    late = told(table, table.take())
    kept.keep(ID, None, late, b"old")
    kept.forget()
    assert kept.get(ID, None) is None
    kept.keep(ID, None, late, b"old")
    assert kept.get(ID, None) is None
    new = Table(tmp_path / "revisions")
    kept.keep(ID, None, late, b"old")
    assert kept.get(ID, None) is None
    kept.keep(ID, None, told(new, new.take()), b"new")
    assert kept.get(ID, None) == b"new"


def test_number_of_answers_is_bounded(table: Table, kept: Inspections) -> None:
    row = table.take()
    for form in range(MAX_KEPT + 1):
        kept.keep(ID, form, told(table, row), b"body")
    assert kept.get(ID, 0) is None
    assert kept.get(ID, 1) == kept.get(ID, MAX_KEPT) == b"body"


def test_taking_and_leaving_a_records_lock_are_changes(table: Table) -> None:
    row = table.take()

    async def change() -> None:
        seen = {row.numbers}
        async with RecordLock(row):
            seen.add(row.numbers)
        seen.add(row.numbers)
        assert len(seen) == 3

    asyncio.run(change())
