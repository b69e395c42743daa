"""Library of lifecycle: container names, given and generated."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from common.errors import InvalidArgument

_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)

_MOODS = """
    able agile amber ample awake balmy bold brave breezy bright brisk calm candid clear clever
    coastal crisp daring deep eager early easy fair fast fine firm fleet fond frank free fresh
    gentle glad golden grand handy happy hardy hearty honest humble jolly keen kind lively
    loyal lucky lunar merry mighty mild misty modest neat nimble noble open patient placid
    plucky polite proud quick quiet ready robust salty serene sharp silent silver sleek smart
    snug solar solid spry steady sunny swift tender tidal tidy trim true upbeat vivid warm
    wise witty zesty
""".split()  # noqa: SIM905 -- a column of words, not of quotes
_SAILORS = """
    albatross anchor anson baffin barents bering bowditch brendan cabot cook coxswain dampier
    diaz drake earle fitzroy flinders franklin frobisher furneaux gama harrison hornblower
    hudson kerguelen laperouse lighthouse magellan marconi marryat mercator nansen navigator
    nemo parry pilot pytheas quartermaster ross scoresby shackleton slocum stevedore stevin
    tasman torres tupaia vancouver verrazzano vespucci wharfinger worsley zheng
""".split()  # noqa: SIM905 -- a column of words, not of quotes


def check(name: str) -> str:
    """``name`` without its slash; raises Docker's error for one that is not allowed."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f"Invalid container name ({name}), only {_ALLOWED} are allowed")
    return name.removeprefix("/")


def generate(taken: Callable[[str], bool]) -> str:
    """A free name of the form adjective_surname."""
    for attempt in range(100):
        name = f"{random.choice(_MOODS)}_{random.choice(_SAILORS)}"
        if attempt:
            name += str(random.randrange(10 ** min(attempt, 9)))
        if not taken(name):
            return name
    raise AssertionError("a hundred random names are taken")
