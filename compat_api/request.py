"""longshored: what a handler gets: one request, lifted to the newest version of the API.

app.py makes it. It reads parameters and bodies by Docker's rules, and knows which changes between
the client's version and the newest concern the endpoint.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from common.errors import InternalError, InvalidArgument
from compat_api.errors import ApiError
from compat_api.release import NEWEST_TEXT, VERSION
from compat_api.versions import Change, Version
from lifecycle._pb import types_pb2 as pb

if TYPE_CHECKING:
    from compat_api.client import Engine

COMMON_HEADERS = {
    "Api-Version": NEWEST_TEXT,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Docker/{VERSION} (linux)",
}

# More JSON than any client sends; Docker has no limit of its own.
MAX_JSON_BYTES = 16 << 20

_FALSE = frozenset(("", "0", "no", "false", "none"))


def encode(body: Any) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)


class Request:
    """A request whose parameters and body mean what the newest version means by them."""

    __slots__ = ("changes", "engine", "http", "name", "query", "version", "warnings")

    def __init__(
        self,
        http: web.BaseRequest,
        engine: Engine,
        *,
        version: Version,
        name: str,
        query: dict[str, list[str]],
        changes: tuple[Change, ...],
    ) -> None:
        self.http = http
        self.engine = engine
        self.version = version  # the client's
        self.name = name  # the template's variable
        self.query = query
        self.changes = changes
        self.warnings: list[str] = []  # that lifting the request gave
        for change in changes:
            change.lift_query(query, self)

    # Parameters.

    def text(self, key: str, default: str = "") -> str:
        values = self.query.get(key)
        return values[0] if values else default

    def texts(self, key: str) -> list[str]:
        return self.query.get(key, [])

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Docker's reading of a boolean: all but a few words are true."""
        values = self.query.get(key)
        if values is None:
            return default
        return values[0].strip().lower() not in _FALSE

    def integer(self, key: str) -> int | None:
        """The number, or None where the parameter is absent or empty."""
        text = self.text(key)
        if not text:
            return None
        digits = text[1:] if text[0] in "+-" else text
        if not (digits.isascii() and digits.isdecimal()):
            # Docker lets Go's parser error through unclassified, which makes it a 500.
            raise InternalError(f'strconv.Atoi: parsing "{text}": invalid syntax')
        return int(text)

    def filters(self, accepted: frozenset[str] | None = None) -> list[pb.Filter]:
        """The ``filters`` parameter; keys other than ``accepted`` are an error if it is given."""
        text = self.text("filters")
        if not text:
            return []
        found = parse_filters(text)
        for item in found:
            if accepted is not None and item.key not in accepted:
                raise InvalidArgument(f"invalid filter '{item.key}'")
        return found

    def registry_auth(self) -> pb.AuthConfig | None:
        """Credentials of the X-Registry-Auth header, None without any that make sense."""
        return parse_auth(self.http.headers.get("X-Registry-Auth", ""))

    # Bodies.

    async def body(self, limit: int = MAX_JSON_BYTES) -> bytes:
        """The whole body; for large ones read ``http.content`` piece by piece."""
        parts = []
        size = 0
        async for part in self.http.content.iter_any():
            size += len(part)
            if size > limit:
                raise ApiError(413, f"request body is larger than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    async def json(self, *, required: bool = False) -> dict[str, Any]:
        """The JSON object in the body; none gives {}, or an error if it is ``required``."""
        self._check_content_type()
        raw = await self.body()
        if not raw.strip():
            if required or raw:
                raise InvalidArgument("invalid JSON: got EOF while reading request body")
            return {}
        value = parse_json(raw)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            kind = {list: "array", str: "string", bool: "bool"}.get(type(value), "number")
            raise InvalidArgument(f"invalid JSON: json: cannot unmarshal {kind} into an object")
        for change in self.changes:
            change.lift_body(value, self)
        return value

    def _check_content_type(self) -> None:
        value = self.http.headers.get("Content-Type", "")
        if not value and not self.http.body_exists:
            return
        media_type = value.partition(";")[0].strip().lower()
        if not media_type:
            raise InvalidArgument(f"malformed Content-Type header ({value}): mime: no media type")
        if media_type != "application/json":
            raise InvalidArgument(
                f"unsupported Content-Type header ({value}): must be 'application/json'"
            )

    # Answers.

    def lower(self, body: Any) -> Any:
        """``body`` as the client's version knows it; None in a stream means: leave it out."""
        for change in reversed(self.changes):
            body = change.lower_body(body, self)
        return body

    def encode(self, body: Any) -> bytes:
        return encode(self.lower(body))

    def content_type(self, newest: str) -> str:
        for change in reversed(self.changes):
            newest = change.lower_content_type(newest)
        return newest

    async def stream(
        self,
        content_type: str,
        *,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> web.StreamResponse:
        """Begin a response of status 200 whose head is on the wire when this returns."""
        response = web.StreamResponse(headers={**COMMON_HEADERS, **(headers or {})})
        if content_type:
            response.headers["Content-Type"] = self.content_type(content_type)
        if length is not None:
            response.content_length = length
        await response.prepare(self.http)
        return response


def parse_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) or "end of data" in error.msg:
            raise InvalidArgument("invalid JSON: unexpected EOF") from None
        if "trailing" in error.msg or "after" in error.msg:
            raise InvalidArgument("unexpected content after JSON") from None
        raise InvalidArgument(f"invalid JSON: {error.msg}") from None


def parse_filters(text: str) -> list[pb.Filter]:
    """``{"key": ["value"]}``, or as old clients send it ``{"key": {"value": true}}``."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidArgument("invalid filter") from None
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidArgument("invalid filter")
    found = []
    for key, values in value.items():
        if isinstance(values, dict):
            values = [name for name, wanted in values.items() if wanted]
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise InvalidArgument("invalid filter")
        found.append(pb.Filter(key=key, values=values))
    return found


def parse_auth(header: str) -> pb.AuthConfig | None:
    """base64url of a JSON object, with or without padding.

    Nonsense counts as absent: a public image can be pulled all the same.
    """
    text = header.strip().translate(_URL_ALPHABET)
    if not text:
        return None
    try:
        value = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        return None
    return auth_config(value) if isinstance(value, dict) and value else None


def auth_config(value: dict[str, Any]) -> pb.AuthConfig:
    """Docker's AuthConfig object; ``auth`` is base64 of "user:password"."""

    def text(key: str) -> str:
        item = value.get(key)
        return item if isinstance(item, str) else ""

    username, password = text("username"), text("password")
    if not username and text("auth"):
        try:
            username, _, password = base64.b64decode(text("auth")).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username = password = ""
    return pb.AuthConfig(
        username=username,
        password=password,
        server_address=text("serveraddress"),
        identity_token=text("identitytoken"),
        registry_token=text("registrytoken"),
    )


_URL_ALPHABET = str.maketrans({"-": "+", "_": "/", "=": None})
