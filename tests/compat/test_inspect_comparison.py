"""Create, update and start with every field: told and shown as Docker Engine does.

Compared with the answers in recorded/inspect.json, or with a Docker Engine that is asked now where
LONGSHORE_ORACLE=unix://... is set; tests/comparison.py records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comparison import Question, ask, recorded
from tests.compat.inspect_questions import QUESTIONS
from tests.engine import BUSYBOX, Engine

ORACLE = os.environ.get("LONGSHORE_ORACLE")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine | None]:
    if not ORACLE:
        yield None
        return
    peer = Engine(Path(ORACLE.removeprefix("unix://")), tmp_path_factory.mktemp("oracle"))
    peer.load_busybox()
    yield peer
    peer.api("DELETE", f"/images/{BUSYBOX}")


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return recorded()


def test_questions_have_names_of_their_own() -> None:
    assert len({question.name for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_same_answer(
    engine: Engine, oracle: Engine | None, answers: dict[str, Any], question: Question
) -> None:
    expected = ask(oracle, question) if oracle else answers[question.name]
    answer = ask(engine, question)
    assert answer["told"] == expected["told"]
    assert answer["shown"] == expected["shown"]
