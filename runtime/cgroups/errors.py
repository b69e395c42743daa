"""Library: what the cgroup code raises besides OSError.

A limit that this machine cannot set, or a state that forbids the operation. ``str(error)`` is the
text for the client; a failed system call stays an OSError with the file's path.
"""

from __future__ import annotations


class CgroupError(Exception):
    """The request cannot be met on this machine or in this state."""


class ControllerMissing(CgroupError):
    """A limit was asked for whose controller the kernel does not offer here."""

    def __init__(self, controller: str, what: str) -> None:
        super().__init__(f"cannot set {what}: the {controller} cgroup controller is not available")
        self.controller = controller
