"""Library of lifecycle: the OCI runtimes that a container may ask for.

The built-in one goes by Docker's name for the default, because that is the name that clients' files
have; it is a library in the shim, and the command longshore-runtime.
"""

from __future__ import annotations

from common.errors import InvalidArgument
from common.options import EngineOptions, RuntimeOption

BUILT_IN = "runc"
BUILT_IN_PATH = "longshore-runtime"
_ALIASES = frozenset({BUILT_IN, "io.containerd.runc.v2", BUILT_IN_PATH})


def find_runtime(options: EngineOptions, name: str) -> RuntimeOption | None:
    """None for the built-in one; raises Docker's error for a name that nobody added."""
    for runtime in options.runtimes:
        if runtime.name == name:
            return runtime
    if name in _ALIASES:
        return None
    raise InvalidArgument(f"unknown or invalid runtime name: {name}")
