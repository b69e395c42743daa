"""Library: the one error taxonomy of the engine, and its codes on the wire.

    EngineError
    ├── NotFound            no such object
    ├── InvalidArgument     the request is wrong, whatever the state
    ├── Conflict            the request is fine, the state forbids it now
    ├── NotModified         what was asked for is so already
    ├── PermissionDenied    a rule forbids it
    ├── Unauthenticated     credentials are missing or wrong
    ├── Unavailable         something needed is not there now; trying again may help
    ├── NotSupported        this engine does not do it
    └── InternalError       the engine's or the kernel's own failure

A raised error carries the text that the client shows: lower case, no full stop, with the object's
name in it, and Docker's own words where clients match on them. ``HTTP_STATUS`` and ``GRPC_STATUS``
are the only tables of codes; errors are translated in two places, lifecycle's gRPC interceptor and
the API's middleware.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that may reach a client; ``str(error)`` is the message it sees."""

    code = "internal"


class NotFound(EngineError):
    code = "not_found"


class InvalidArgument(EngineError):
    code = "invalid_argument"


class Conflict(EngineError):
    code = "conflict"


class NotModified(EngineError):
    code = "not_modified"


class PermissionDenied(EngineError):
    code = "permission_denied"


class Unauthenticated(EngineError):
    code = "unauthenticated"


class Unavailable(EngineError):
    code = "unavailable"


class NotSupported(EngineError):
    code = "not_supported"


class InternalError(EngineError):
    code = "internal"


# Docker's status for each kind of error (moby v28.5.2 api/server/httpstatus/status.go).
HTTP_STATUS: dict[str, int] = {
    "not_found": 404,
    "invalid_argument": 400,
    "conflict": 409,
    "not_modified": 304,
    "permission_denied": 403,
    "unauthenticated": 401,
    "unavailable": 503,
    "not_supported": 501,
    "internal": 500,
}

# The gRPC status that carries each kind between lifecycle and its callers.
GRPC_STATUS: dict[str, str] = {
    "not_found": "NOT_FOUND",
    "invalid_argument": "INVALID_ARGUMENT",
    "conflict": "FAILED_PRECONDITION",
    "not_modified": "ALREADY_EXISTS",
    "permission_denied": "PERMISSION_DENIED",
    "unauthenticated": "UNAUTHENTICATED",
    "unavailable": "UNAVAILABLE",
    "not_supported": "UNIMPLEMENTED",
    "internal": "INTERNAL",
}

BY_CODE: dict[str, type[EngineError]] = {
    kind.code: kind
    for kind in (
        NotFound,
        InvalidArgument,
        Conflict,
        NotModified,
        PermissionDenied,
        Unauthenticated,
        Unavailable,
        NotSupported,
        InternalError,
    )
}


def from_code(code: str, message: str) -> EngineError:
    """The error that crossed a process border as ``code`` and ``message``."""
    return BY_CODE.get(code, InternalError)(message)
