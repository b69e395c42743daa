"""Library: how grpc waits for its sockets, which it reads from the environment as it is imported.

For longshored and lifecycle, whose first import of grpc this has to be.
"""

from __future__ import annotations

import importlib
import os

NAME = "GRPC_EXPERIMENTS"
# grpc's own threads take turns at each call: 7 switches of context instead of 3, a third of its
# time. Without these "experiments", the one thread that waits for the sockets reads them too.
LEFT_OUT = "-event_engine_client,-event_engine_listener"


def load() -> None:
    """Import grpc. A value that the environment has goes before ours, which no child inherits."""
    if NAME in os.environ:
        return
    os.environ[NAME] = LEFT_OUT
    try:
        importlib.import_module("grpc.aio")
    finally:
        del os.environ[NAME]
