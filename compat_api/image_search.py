"""longshored: GET /images/search, which asks a registry's index for names.

Only indexes of the old kind can be searched: Docker Hub and what imitates it. The distribution API
has no search, so most other registries answer 404, and that is what the client is told.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlencode

from aiohttp import BasicAuth, ClientError, ClientSession, ClientTimeout

from common.errors import InternalError, InvalidArgument
from compat_api.request import Request
from lifecycle._pb import types_pb2 as types

DEFAULT_LIMIT = 25
MAX_LIMIT = 100
TIMEOUT_SECONDS = 60
HUB = "index.docker.io"
FILTERS = frozenset(("is-automated", "is-official", "stars"))


async def search(request: Request) -> list[dict[str, Any]]:
    limit = request.integer("limit") or DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {MAX_LIMIT}]")
    filters = request.filters(FILTERS)
    for item in filters:
        check_filter(item)
    host, term = split_term(request.text("term"))
    info = await request.engine.system.GetInfo(types.Empty())
    scheme = "http" if is_insecure(host, info.insecure_registries) else "https"
    url = f"{scheme}://{host}/v1/search?{urlencode({'q': term, 'n': limit})}"
    results = await _fetch(url, request)
    return [item for item in map(result, results) if matches(item, filters)]


def split_term(term: str) -> tuple[str, str]:
    """Host of the index and what to look for: ``host/term``, or Docker Hub's."""
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return (HUB if host == "docker.io" else host), rest
    return HUB, term


def is_insecure(host: str, insecure: Any) -> bool:
    """Whether plain HTTP may be used, by name or by network."""
    name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
    if host in insecure or name in insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    if address.is_loopback:
        return True
    networks = [text for text in insecure if "/" in text]
    return any(address in ipaddress.ip_network(text, strict=False) for text in networks)


async def _fetch(url: str, request: Request) -> list[dict[str, Any]]:
    auth = request.registry_auth()
    credentials = BasicAuth(auth.username, auth.password) if auth and auth.username else None
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=TIMEOUT_SECONDS)) as session,
            session.get(url, auth=credentials) as response,
        ):
            if response.status != 200:
                raise InternalError(f"Unexpected status code {response.status}")
            body = await response.json(content_type=None)
    except (ClientError, OSError, ValueError) as error:
        raise InternalError(f'Get "{url}": {error}') from error
    results = body.get("results") if isinstance(body, dict) else None
    return [item for item in results or () if isinstance(item, dict)]


def result(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": item.get("description") or "",
        "is_automated": False,
        "is_official": bool(item.get("is_official")),
        "name": item.get("name") or "",
        "star_count": item.get("star_count") or 0,
    }


def check_filter(item: types.Filter) -> None:
    for value in item.values:
        valid = value.isdecimal() if item.key == "stars" else value in ("true", "false", "1", "0")
        if not valid:
            raise InvalidArgument(f"invalid filter '{item.key}={value}'")


def matches(found: dict[str, Any], filters: list[types.Filter]) -> bool:
    for item in filters:
        if item.key == "stars":
            fits = all(found["star_count"] >= int(value) for value in item.values)
        else:
            is_so = found[item.key.replace("-", "_")]
            fits = all(is_so == (value in ("true", "1")) for value in item.values)
        if not fits:
            return False
    return True
