"""Library: how grpc waits for its sockets; to be chosen before grpc is imported."""

from __future__ import annotations

import os

# grpc's own threads take turns at each call: 7 switches of context instead of 3, a third of its
# time. Without these "experiments", the one thread that waits for the sockets reads them too.
LEFT_OUT = "-event_engine_client,-event_engine_listener"


def choose() -> None:
    """A GRPC_EXPERIMENTS of the environment has its way."""
    os.environ.setdefault("GRPC_EXPERIMENTS", LEFT_OUT)
