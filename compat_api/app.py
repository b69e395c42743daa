"""longshored: the HTTP server between aiohttp and the handlers.

For each request: the path's version, the route, a ``Request`` lifted to the newest version, the
handler, the answer lowered again; and whatever fails becomes Docker's error body here and nowhere
else. Built on aiohttp's low-level server: its router and middlewares would cost more than all of
this.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web

from compat_api.client import Engine
from compat_api.connection import Connection
from compat_api.errors import status_and_message
from compat_api.origin import OriginCheck
from compat_api.release import NEWEST, NEWEST_TEXT, OLDEST, OLDEST_TEXT
from compat_api.request import COMMON_HEADERS, Request, encode
from compat_api.routes import Answer, Empty, Encoded, Json, Route, Router
from compat_api.versions import Version, changes_for, parse

log = logging.getLogger("longshored")

NO_BODY = frozenset((204, 304))


class App:
    """Answers requests; one for all listeners."""

    def __init__(self, engine: Engine, routes: Iterable[Route]) -> None:
        self._engine = engine
        self._router = Router(routes)

    def handler(self, origin_check: OriginCheck | None = None) -> _Handler:
        return _Handler(self, origin_check)

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        path, query_text = split_target(http.raw_path)
        if "//" in path or "/." in path:
            cleaned = clean(path)
            if cleaned != path:
                location = f"{cleaned}?{query_text}" if query_text else cleaned
                return web.Response(status=301, headers={"Location": location})
        version_text, rest = split_version(path)
        found = self._router.find(http.method, rest)
        if found is None:
            return error_response(404, "page not found", headers={})
        route, name = found
        version = parse(version_text) if version_text else NEWEST
        refusal = refuse_version(version, version_text)
        if refusal is not None:
            return refusal
        if version < route.since:
            return error_response(404, "page not found", headers={})
        request = None
        try:
            request = Request(
                http,
                self._engine,
                version=version,
                name=name,
                query=parse_query(query_text),
                changes=changes_for(version, route.endpoint) if version != NEWEST else (),
            )
            return respond(await route.handler(request), request)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client is gone
        except Exception as error:
            return self._failure(error, http)

    def _failure(self, error: Exception, http: web.BaseRequest) -> web.StreamResponse:
        status, message = status_and_message(error)
        if status >= 500:
            log.error(
                "handler for %s %s failed: %s",
                http.method,
                http.path,
                message,
                exc_info=error if not message or type(error).__name__ in message else None,
            )
        if http.writer.output_size:
            # Part of an answer is out; only an end without the last chunk can tell the client.
            raise ConnectionResetError(message) from error
        return error_response(status, message, headers=COMMON_HEADERS)


class _Handler:
    """What aiohttp calls for each request of one listener."""

    def __init__(self, app: App, origin_check: OriginCheck | None) -> None:
        self._app = app
        self._origin_check = origin_check

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        if self._origin_check is not None:
            refusal = self._origin_check.refusal(http.headers)
            if refusal is not None:
                return error_response(403, refusal, headers={})
        try:
            return await self._app.answer(http)
        finally:
            connection = http.protocol
            if isinstance(connection, Connection) and connection.raw_body is not None:
                connection.raw_body.handler_ended()


def split_target(target: str) -> tuple[str, str]:
    """Decoded path and raw query of a request target."""
    if not target.startswith("/"):
        parts = urlsplit(target)
        path, query = parts.path or "/", parts.query
    else:
        path, _, query = target.partition("?")
    if "%" in path:
        path = unquote(path)
    return path, query


def clean(path: str) -> str:
    """Path without empty, ``.`` and ``..`` parts; a slash at the end stays."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def split_version(path: str) -> tuple[str, str]:
    """``/v1.51/info`` gives ``1.51`` and ``/info``; without a version the first is empty."""
    if path.startswith("/v") and path[2:3].isdigit():
        version, slash, rest = path[2:].partition("/")
        if slash and not version.strip("0123456789."):
            return version, slash + rest
    return "", path


def parse_query(text: str) -> dict[str, list[str]]:
    query: dict[str, list[str]] = {}
    if text:
        for key, value in parse_qsl(text, keep_blank_values=True):
            query.setdefault(key, []).append(value)
    return query


def refuse_version(version: Version, text: str) -> web.Response | None:
    # The check stands before the one for the experimental mode in Docker, hence without its header.
    headers = {key: value for key, value in COMMON_HEADERS.items() if key != "Docker-Experimental"}
    if version > NEWEST:
        return error_response(
            400,
            f"client version {text} is too new. Maximum supported API version is {NEWEST_TEXT}",
            headers=headers,
        )
    if version < OLDEST:
        # Clients as old as this expect plain text.
        return web.Response(
            status=400,
            text=f"client version {text} is too old. Minimum supported API version is "
            f"{OLDEST_TEXT}, please upgrade your client to a newer version\n",
            headers={**headers, "X-Content-Type-Options": "nosniff"},
        )
    return None


def respond(answer: Answer, request: Request) -> web.StreamResponse:
    if isinstance(answer, Json):
        return encoded_response(request.encode(answer.body), answer.status, COMMON_HEADERS)
    if isinstance(answer, Encoded):
        return encoded_response(answer.body, HTTPStatus.OK, COMMON_HEADERS)
    if isinstance(answer, Empty):
        return web.Response(status=answer.status, headers=COMMON_HEADERS)
    return answer


def encoded_response(body: bytes, status: int, headers: dict[str, str]) -> web.Response:
    # Go's client compares the type with exactly this text: no charset.
    headers = {**headers, "Content-Type": "application/json"}
    return web.Response(body=body, status=status, headers=headers)


def error_response(status: int, message: str, *, headers: dict[str, str]) -> web.Response:
    if status in NO_BODY:
        return web.Response(status=status, headers=headers)
    return encoded_response(encode({"message": message}), status, headers)
