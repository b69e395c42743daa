"""longshored: answers that are longer than one JSON value: progress, events, followed logs.

The head goes out before the first value, each value is one chunk, and once the head is out an error
is a value of the stream, because there is no other place for it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from compat_api.errors import status_and_message
from compat_api.request import Request


class JsonStream:
    """A chunked response of JSON objects: docker-py needs chunks, Docker ends progress with CRLF.

    The head is sent with the first value, or by ``begin``; until then an exception is an ordinary
    error response. After that ``async with`` puts it into the stream as an ``errorDetail``.
    """

    def __init__(
        self, request: Request, *, content_type: str = "application/json", end: bytes = b"\r\n"
    ) -> None:
        self._request = request
        self._content_type = content_type
        self._end = end
        self._response: web.StreamResponse | None = None

    async def begin(self) -> None:
        if self._response is None:
            self._response = await self._request.stream(self._content_type)

    async def send(self, value: Any) -> None:
        """Write ``value``, unless the client's version does not know such a thing."""
        await self.begin()
        assert self._response is not None
        value = self._request.lower(value)
        if value is not None:
            await self._response.write(orjson.dumps(value) + self._end)

    async def finish(self) -> web.StreamResponse:
        """End the response and return it, as the handler's answer."""
        await self.begin()
        assert self._response is not None
        await self._response.write_eof()
        return self._response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._response is None or not isinstance(error, Exception):
            return False
        if isinstance(error, ConnectionError):
            return False
        _, message = status_and_message(error)
        await self.send({"errorDetail": {"message": message}, "error": message})
        return True
