"""longshored: from any failure to the status and the text that a client gets.

Used by app.py, which is the one place where error bodies are made. Lifecycle's errors arrive as
gRPC statuses with the client's text as their details; they become common.errors again here, so
that handlers catch and raise one taxonomy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from common.errors import GRPC_STATUS, HTTP_STATUS, EngineError, Unavailable, from_code

CODE_OF_STATUS = {grpc.StatusCode[status]: code for code, status in GRPC_STATUS.items()}


class ApiError(Exception):
    """An HTTP status that no kind of EngineError has, such as 413."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def from_rpc(error: grpc.aio.AioRpcError) -> EngineError:
    code = CODE_OF_STATUS.get(error.code(), "internal")
    details = error.details() or f"the engine's lifecycle service answered {error.code().name}"
    if code == "unavailable" and "connect" in details:
        # gRPC's own text names addresses and retries; it says nothing to a user.
        return Unavailable("the engine's lifecycle service is not running")
    return from_code(code, details)


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Lifecycle's errors in the body are raised as EngineError, for handlers that catch some."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Errors in the body get ``prefix`` before their text and keep their kind."""
    try:
        with rpc_errors():
            yield
    except EngineError as error:
        raise type(error)(f"{prefix}: {error}") from error


def status_and_message(error: Exception) -> tuple[int, str]:
    if isinstance(error, grpc.aio.AioRpcError):
        error = from_rpc(error)
    if isinstance(error, EngineError):
        return HTTP_STATUS[error.code], str(error) or error.code
    if isinstance(error, ApiError):
        return error.status, str(error)
    return 500, f"{type(error).__name__}: {error}"
