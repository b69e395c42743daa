"""Library: the one exception of the runtime, and the texts of errno as clients know them.

Raised by the parent's functions and carried over the socket from a container's child side. The
texts are tabulated before anything runs inside a container, where the C library might look for
translations of them.
"""

from __future__ import annotations

import errno
import os

# Go prints them in lower case; clients match on "no such file or directory" and the like.
ERRNO_TEXT = {
    code: os.strerror(code)[:1].lower() + os.strerror(code)[1:] for code in errno.errorcode
}

INIT_PREFIX = "error during container init: "


def reason(code: int) -> str:
    return ERRNO_TEXT.get(code, f"errno {code}")


class RuntimeFailure(Exception):
    """``message`` is what runc prints after "unable to start container process: "."""

    def __init__(self, step: str, message: str, *, errno: int = 0, path: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.errno = errno
        self.path = path

    def __str__(self) -> str:
        return self.message

    def in_init(self) -> None:
        """As runc's child side says it, whichever side found out here."""
        self.message = INIT_PREFIX + self.message

    @classmethod
    def from_os(cls, step: str, error: OSError, what: str = "") -> RuntimeFailure:
        """``what`` says what was tried; the reason is appended to it."""
        code = error.errno or 0
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        text = what or (f"{step} {path}" if path else step)
        return cls(step, f"{text}: {reason(code)}", errno=code, path=path)


class NoSuchContainer(RuntimeFailure):
    def __init__(self, container_id: str) -> None:
        super().__init__("state", "container does not exist", path=container_id)


class WrongStatus(RuntimeFailure):
    """The container's status forbids the operation."""

    def __init__(self, step: str, message: str) -> None:
        super().__init__(step, message)
