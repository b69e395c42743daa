"""Library: the processes' names in ``ps``.

The setproctitle package imports logging, and with it threading, whose handlers after each fork make
half a megabyte of every shim's memory its own. So the package's extension is loaded without it.
The random module, which seeds itself after each fork, is not to be imported either.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

from common.paths import DEFAULT_EXEC_ROOT


def _load() -> Callable[[str], None]:
    package = PathFinder.find_spec("setproctitle")
    locations = package.submodule_search_locations if package else None
    found = PathFinder.find_spec("_setproctitle", list(locations or ()))
    if found is None or found.loader is None:
        raise ImportError("setproctitle is not installed")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    function: Callable[[str], None] = module.setproctitle
    return function


_set = _load()


def set_title(name: str, exec_root: Path) -> None:
    """``name``, and the exec root unless it is the usual one, so that engines can be told apart."""
    _set(name if exec_root == DEFAULT_EXEC_ROOT else f"{name} {exec_root}")
