"""Lists, inspects, operations and errors, in several versions of the API: as Docker Engine answers.

Compared with the answers in recorded/answers.json, or with a Docker Engine that is asked now where
LONGSHORE_ORACLE=unix://... is set; tests/scenes.py records.
"""

from __future__ import annotations

import pytest

from tests import scenes
from tests.compat.answer_questions import SCENES
from tests.compat.test_inspect_comparison import oracle
from tests.engine import Engine
from tests.scenes import Scene

__all__ = ["oracle"]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_same_answers(engine: Engine, oracle: Engine | None, scene: Scene) -> None:
    expected = scenes.perform(oracle, scene) if oracle else scenes.recorded()[scene.name]
    assert list(expected) == [ask.name for ask in scene.asks], "questions changed: record anew"
    answers = scenes.perform(engine, scene)
    different = [
        f"{name} v{version} {path}: {told.get(path, '-')!r}, Docker {wanted.get(path, '-')!r}"
        for name in expected
        for version, wanted in expected[name].items()
        for told in [answers[name][version]]
        for path in sorted(wanted.keys() | told.keys())
        if told.get(path, "-") != wanted.get(path, "-")
    ]
    assert not different, "\n".join(different)
