"""longshored: what version 1.30 of the API changed; see the package."""

from __future__ import annotations

from compat_api.versions.edits import UnknownParameters


class WaitCondition(UnknownParameters):
    """Waits have a condition."""

    endpoints = ("POST /containers/{name}/wait",)
    parameters = ("condition",)


CHANGES = (WaitCondition(),)
