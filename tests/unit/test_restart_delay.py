"""How long the engine waits before it starts a container again."""

from __future__ import annotations

from itertools import accumulate

import pytest

from lifecycle.exits import LONGEST_DELAY, next_delay


def test_delays_double_up_to_the_longest() -> None:
    delays = list(accumulate(range(12), lambda delay, _: next_delay(delay), initial=0.0))[1:]
    doubling = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]
    assert delays == pytest.approx([*doubling, LONGEST_DELAY, LONGEST_DELAY])
