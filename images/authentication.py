"""Worker: what a registry is shown of the user's credentials.

They belong to the registry that the user named: only requests to its own origin carry them, and its
token service (the ``realm`` of the challenge) gets them only over TLS, or where the registry itself
was allowed to be insecure. Never a redirect's target, never a layer's foreign URL (CVE-2020-15157).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from aiohttp import BasicAuth

from common.errors import InternalError, Unauthenticated
from images.endpoints import Endpoint
from images.model import AuthConfig

CLIENT_ID = "docker"
TOKEN_LIMIT = 1 << 20
DEFAULT_TOKEN_SECONDS = 60
EXPIRY_MARGIN_SECONDS = 10

_CHALLENGE = re.compile(r"\s*([A-Za-z]+)\s+(.*)", re.DOTALL)
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Fetch(Protocol):
    """A plain request, without authorization of its own and without redirects."""

    async def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None
    ) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge | None:
    match = _CHALLENGE.match(header)
    if match is None:
        return None
    parameters = {
        key.lower(): re.sub(r"\\(.)", r"\1", quoted) if quoted else plain
        for key, quoted, plain in _PARAMETER.findall(match[2])
    }
    return Challenge(match[1].lower(), parameters)


class Authenticator:
    def __init__(
        self,
        endpoint: Endpoint,
        auth: AuthConfig | None,
        scope: str,
        fetch: Fetch,
        *,
        offline: bool = False,
    ) -> None:
        # With ``offline`` the token service is asked for a token that can stand for the password
        # from then on; it is in ``identity_token`` afterwards.
        self.identity_token = ""
        self._offline = offline
        # A mirror is another party than the registry that the user logged in to.
        self._auth = AuthConfig() if auth is None or endpoint.mirror else auth
        self._endpoint = endpoint
        self._scope = scope
        self._fetch = fetch
        self._header = ""
        self._expires = float("inf")
        self._challenge: Challenge | None = None
        if self._auth.registry_token:
            self._header = f"Bearer {self._auth.registry_token}"

    async def header(self) -> str:
        """The Authorization header, "" for none; a token about to expire is renewed."""
        if self._challenge is not None and time.monotonic() > self._expires:
            await self.answer(self._challenge)
        return self._header

    async def answer(self, challenge: Challenge) -> bool:
        """Prepare for a 401's challenge; whether trying again makes sense."""
        if challenge.scheme == "basic":
            header = self._basic()
            if not header or header == self._header:
                return False
            self._header = header
            return True
        if challenge.scheme != "bearer" or self._auth.registry_token:
            return False
        self._challenge = challenge
        token, seconds = await self._token(challenge)
        self._header = f"Bearer {token}"
        self._expires = time.monotonic() + max(seconds - EXPIRY_MARGIN_SECONDS, 1)
        return True

    def _basic(self) -> str:
        if not self._auth.username:
            return ""
        return BasicAuth(self._auth.username, self._auth.password, "utf-8").encode()

    async def _token(self, challenge: Challenge) -> tuple[str, int]:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InternalError(f"invalid token realm {realm[:200]!r}")
        if parts.scheme == "http" and self._endpoint.verify:
            raise InternalError(f"refusing the token realm {realm[:200]!r}: it is not https")
        query = {"service": challenge.parameters.get("service", "")}
        scope = challenge.parameters.get("scope", "")
        query["scope"] = " ".join(dict.fromkeys([*scope.split(), *self._scope.split()]))
        if self._auth.identity_token:
            return await self._oauth(realm, query)
        headers = {"Authorization": basic} if (basic := self._basic()) else {}
        if basic:
            query["account"] = self._auth.username
        if self._offline:
            query |= {"offline_token": "true", "client_id": CLIENT_ID}
        pairs = [(key, value) for key, value in query.items() if value and key != "scope"]
        pairs += [("scope", part) for part in query["scope"].split()]
        separator = "&" if parts.query else "?"
        url = f"{realm}{separator}{urlencode(pairs)}"
        status, body = await self._fetch("GET", url, headers=headers, data=None)
        return self._parse_token(status, body)

    async def _oauth(self, realm: str, query: Mapping[str, str]) -> tuple[str, int]:
        form = {
            **query,
            "grant_type": "refresh_token",
            "refresh_token": self._auth.identity_token,
            "client_id": CLIENT_ID,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        data = urlencode(form).encode()
        status, body = await self._fetch("POST", realm, headers=headers, data=data)
        return self._parse_token(status, body)

    def _parse_token(self, status: int, body: bytes) -> tuple[str, int]:
        if status in (401, 403):
            raise Unauthenticated("unauthorized: incorrect username or password")
        if status != 200:
            raise InternalError(f"fetching a token failed with status {status}")
        try:
            answer = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
            refresh = answer.get("refresh_token") or ""
            seconds = answer.get("expires_in") or DEFAULT_TOKEN_SECONDS
        except (ValueError, AttributeError) as e:
            raise InternalError("the token service did not answer with JSON") from e
        if not isinstance(token, str) or not isinstance(seconds, int) or not token.isascii():
            raise InternalError("authorization server did not include a token in the response")
        if any(character in token for character in "\r\n"):
            raise InternalError("the token service answered with an invalid token")
        if isinstance(refresh, str):
            self.identity_token = refresh
        return token, seconds
