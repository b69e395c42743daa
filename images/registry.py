"""Worker: a client of one repository in one registry (OCI distribution-spec, Docker registry v2).

Requests follow redirects by themselves and lose the credentials when these leave the registry's
origin; what can be tried again is, with growing pauses. Nothing of the environment (proxies,
.netrc) is used. What is fetched is hashed by its caller: a registry's word for a digest is not
enough.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from common.errors import EngineError, InternalError
from images import manifest
from images.authentication import Authenticator, parse_challenge
from images.content import METADATA_LIMIT
from images.endpoints import Endpoint, RegistryOptions, endpoints, ssl_context
from images.model import AuthConfig
from images.reference import Reference, is_tag

USER_AGENT = "docker/28.5.2 longshore"
REDIRECT_LIMIT = 5
RETRY_STATUS = frozenset((408, 429, 500, 502, 503, 504))
PAUSE_LIMIT_SECONDS = 30.0
TAGS_PAGE = 1000
TAGS_LIMIT = 100_000
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
READ_BUFFER = 1 << 18
TRANSPORT_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)

Result = TypeVar("Result")

_NEXT = re.compile(r'\s*<([^>]*)>\s*;\s*rel="?next"?')


class RegistryError(InternalError):
    """The registry answered, but not with what was asked for."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = code
        self.retry_after = retry_after  # seconds, if the registry said so


@dataclass(frozen=True, slots=True)
class Fetched:
    data: bytes
    content_type: str
    link: str  # the header, which names the next page of a list


class Registry:
    def __init__(
        self,
        endpoint: Endpoint,
        auth: AuthConfig | None,
        options: RegistryOptions,
        *,
        repository: str = "",  # none: only the registry itself is asked, at a login
        actions: str = "",
    ) -> None:
        self.endpoint = endpoint
        self._users = 1
        self._options = options
        self.repository = repository
        self._origin = URL(endpoint.url).origin()
        scope = f"repository:{repository}:{actions}" if repository else ""
        self._authenticator = Authenticator(
            endpoint, auth, scope, self._fetch_plain, offline=not repository
        )
        context = (
            ssl_context(endpoint, options.certificates) if endpoint.scheme == "https" else None
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context or True, limit=16),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            timeout=TIMEOUT,
            trust_env=False,
            headers={"User-Agent": USER_AGENT},
        )

    def retain(self) -> None:
        """One more user: a shared download may outlive the pull that began it."""
        self._users += 1

    async def close(self) -> None:
        self._users -= 1
        if not self._users:
            await self._session.close()

    def url(self, rest: str) -> str:
        return f"{self.endpoint.url}/v2/{self.repository}/{rest}"

    async def ping(self) -> None:
        """Whether anything that speaks the protocol is there; raises a transport error if not."""
        async with self.request("GET", f"{self.endpoint.url}/v2/", expected=(200, 401, 404)):
            pass

    async def login(self) -> str:
        """Try the credentials; the identity token that the registry gives in their place, or ""."""
        async with self.request("GET", f"{self.endpoint.url}/v2/"):
            return self._authenticator.identity_token

    async def tags(self) -> list[str]:
        """All of the repository, page by page."""
        found: list[str] = []
        rest = f"tags/list?n={TAGS_PAGE}"
        while rest:
            fetched = await self._retrying(rest, {})
            found += _tags(fetched.data)
            if len(found) > TAGS_LIMIT:
                raise InternalError(f"{self.repository} has more than {TAGS_LIMIT} tags")
            rest = _next_page(fetched.link)
        return found

    async def manifest(self, tag_or_digest: str) -> Fetched:
        accept = ", ".join((*manifest.INDEXES, *manifest.MANIFESTS))
        return await self._retrying(f"manifests/{tag_or_digest}", {"Accept": accept})

    async def blob(self, digest: str) -> bytes:
        """A small one: a configuration."""
        return (await self._retrying(f"blobs/{digest}", {})).data

    async def _retrying(self, rest: str, headers: Mapping[str, str]) -> Fetched:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.request("GET", self.url(rest), headers=headers) as response:
                    return Fetched(
                        await _read(response),
                        response.headers.get("Content-Type", ""),
                        response.headers.get("Link", ""),
                    )
            except (RegistryError, *TRANSPORT_ERRORS) as e:
                if attempt >= self._options.max_attempts or not is_temporary(e):
                    raise
                await pause(attempt, e)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        expected: tuple[int, ...] = (200,),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to read from; RegistryError for any status but the ``expected``."""
        response = await self._send(method, url, headers or {}, data, expected)
        try:
            if response.status not in expected:
                raise await _error(response)
            yield response
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Any,
        expected: tuple[int, ...],
    ) -> aiohttp.ClientResponse:
        challenged = False
        for _ in range(REDIRECT_LIMIT + 2):
            target = URL(url, encoded=True)
            own = target.origin() == self._origin
            sent = dict(headers)
            if own and (authorization := await self._authenticator.header()):
                sent["Authorization"] = authorization
            response = await self._session.request(
                method, target, headers=sent, data=data, allow_redirects=False
            )
            if response.status == 401 and own and not challenged and 401 not in expected:
                challenged = True
                challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
                if challenge is not None and data is None:
                    await response.read()
                    if await self._authenticator.answer(challenge):
                        continue
                return response
            if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                return response
            response.release()
            url = _redirected(url, response.headers.get("Location", ""), self.endpoint)
        raise InternalError(f"too many redirects from {self.endpoint.host}")

    async def _fetch_plain(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | None
    ) -> tuple[int, bytes]:
        async with self._session.request(
            method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False
        ) as response:
            return response.status, await _read(response)


async def ask(
    name: Reference,
    auth: AuthConfig | None,
    options: RegistryOptions,
    work: Callable[[Registry], Awaitable[Result]],
    *,
    push: bool = False,
) -> Result:
    """``work`` with the first endpoint that answers; what a mirror cannot do, the next one does."""
    failure: EngineError | None = None
    answered = False
    for endpoint in endpoints(name.domain, options, push=push):
        actions = "pull,push" if push else "pull"
        registry = Registry(endpoint, auth, options, repository=name.path, actions=actions)
        try:
            try:
                await registry.ping()
            except (RegistryError, *TRANSPORT_ERRORS) as e:
                # A mirror's "there is none" says more than that nobody else can be reached.
                failure = failure if answered else _unreachable(endpoint, e)
                continue
            try:
                return await work(registry)
            except EngineError as e:
                failure, answered = e, True
            except TRANSPORT_ERRORS as e:
                failure = _unreachable(endpoint, e)
            if not endpoint.mirror:
                raise failure
        finally:
            await registry.close()
    assert failure is not None
    raise failure


def _unreachable(endpoint: Endpoint, error: BaseException) -> InternalError:
    failure = InternalError(f'Get "{endpoint.url}/v2/": {describe(error)}')
    failure.__cause__ = error
    return failure


def is_temporary(error: BaseException) -> bool:
    if isinstance(error, RegistryError):
        return error.status in RETRY_STATUS
    if isinstance(error, aiohttp.ClientConnectorError):
        return not isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError
        )
    return isinstance(error, TRANSPORT_ERRORS)


async def pause(attempt: int, error: BaseException) -> None:
    """Between two attempts: as long as the registry asks for, else longer each time.

    Not the same for all who wait, so that they do not come back all at once.
    """
    seconds = 0.25 * 2 ** (attempt - 1)
    if isinstance(error, RegistryError) and error.retry_after is not None:
        seconds = max(seconds, error.retry_after)
    await asyncio.sleep(min(PAUSE_LIMIT_SECONDS, seconds) * random.uniform(1, 1.25))


def describe(error: BaseException) -> str:
    """A transport's failure in the words of Go's net package, which people search for."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"tls: {error.os_error.strerror or error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = (error.os_error.strerror or str(error.os_error)).lower()
        if isinstance(error.os_error, ConnectionRefusedError):
            reason = "connection refused"
        return f"dial tcp {error.host}:{error.port}: connect: {reason}"
    if isinstance(error, asyncio.TimeoutError):
        return "context deadline exceeded"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "unexpected EOF"
    return str(error) or type(error).__name__


def _redirected(url: str, location: str, endpoint: Endpoint) -> str:
    if not location:
        raise InternalError(f"{endpoint.host} redirects to nowhere")
    target = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme not in ("http", "https") or not new.netloc:
        raise InternalError(f"{endpoint.host} redirects to {target[:200]!r}")
    if old.scheme == "https" and new.scheme == "http" and endpoint.verify:
        raise InternalError(f"{endpoint.host} redirects from https to http: refused")
    return target


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > METADATA_LIMIT:
            raise InternalError(f"{response.url.host} sent more than {METADATA_LIMIT} bytes")
    return bytes(data)


async def _error(response: aiohttp.ClientResponse) -> RegistryError:
    """The first error of the body, as distribution's client prints it: ``code: message``."""
    body = await _read(response)
    after = _retry_after(response.headers.get("Retry-After", ""))
    try:
        first = json.loads(body)["errors"][0]
        code = str(first["code"])
        message = str(first.get("message") or code.lower().replace("_", " "))
        text = f"{code.lower().replace('_', ' ')}: {message}"
        return RegistryError(response.status, code, text, after)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return RegistryError(
            response.status,
            "",
            f"received unexpected HTTP status: {response.status} {response.reason or ''}".rstrip(),
            after,
        )


def _retry_after(text: str) -> float | None:
    """Seconds, or a moment in HTTP's form."""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _tags(data: bytes) -> list[str]:
    try:
        tags = json.loads(data)["tags"]
    except (ValueError, KeyError, TypeError) as e:
        raise InternalError("the registry did not answer with a list of tags") from e
    return [tag for tag in tags or () if isinstance(tag, str) and is_tag(tag)]


def _next_page(link: str) -> str:
    """Where a list goes on: only the parameters count, so that no link leads elsewhere."""
    match = _NEXT.match(link)
    query = urlsplit(match[1]).query if match else ""
    return f"tags/list?{query}" if query else ""
