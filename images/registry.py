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
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from common.errors import InternalError
from images import manifest
from images.authentication import Authenticator, parse_challenge
from images.content import METADATA_LIMIT
from images.endpoints import Endpoint, RegistryOptions, endpoints, ssl_context
from images.model import AuthConfig
from images.reference import Reference

USER_AGENT = "docker/28.5.2 longshore"
REDIRECT_LIMIT = 5
RETRY_STATUS = frozenset((408, 429, 500, 502, 503, 504))
PAUSE_LIMIT_SECONDS = 30.0
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
READ_BUFFER = 1 << 18
TRANSPORT_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)


class RegistryError(InternalError):
    """The registry answered, but not with what was asked for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = code


@dataclass(frozen=True, slots=True)
class Fetched:
    data: bytes
    content_type: str


class Registry:
    def __init__(
        self,
        endpoint: Endpoint,
        name: Reference,
        auth: AuthConfig | None,
        options: RegistryOptions,
        actions: str,
    ) -> None:
        self.endpoint = endpoint
        self._users = 1
        self._options = options
        self.repository = name.path
        self._origin = URL(endpoint.url).origin()
        self._authenticator = Authenticator(
            endpoint, auth, f"repository:{name.path}:{actions}", self._fetch_plain
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
                    return Fetched(await _read(response), response.headers.get("Content-Type", ""))
            except (RegistryError, *TRANSPORT_ERRORS) as e:
                if attempt >= self._options.max_attempts or not is_temporary(e):
                    raise
                await pause(attempt)

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


async def connect(
    name: Reference, auth: AuthConfig | None, options: RegistryOptions, *, push: bool = False
) -> Registry:
    """The first of the repository's endpoints that answers."""
    failure: Exception | None = None
    for endpoint in endpoints(name.domain, options, push=push):
        registry = Registry(endpoint, name, auth, options, "pull,push" if push else "pull")
        try:
            await registry.ping()
        except (RegistryError, *TRANSPORT_ERRORS) as e:
            await registry.close()
            failure = InternalError(f'Get "{endpoint.url}/v2/": {describe(e)}')
            failure.__cause__ = e
        except BaseException:
            await registry.close()
            raise
        else:
            return registry
    assert failure is not None
    raise failure


def is_temporary(error: BaseException) -> bool:
    if isinstance(error, RegistryError):
        return error.status in RETRY_STATUS
    if isinstance(error, aiohttp.ClientConnectorError):
        return not isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError
        )
    return isinstance(error, TRANSPORT_ERRORS)


async def pause(attempt: int) -> None:
    """Between two attempts: longer each time, and not the same for all who wait."""
    seconds = min(PAUSE_LIMIT_SECONDS, 0.25 * 2 ** (attempt - 1))
    await asyncio.sleep(seconds * random.uniform(0.75, 1.25))


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
    try:
        first = json.loads(body)["errors"][0]
        code = str(first["code"])
        message = str(first.get("message") or code.lower().replace("_", " "))
        return RegistryError(response.status, code, f"{code.lower().replace('_', ' ')}: {message}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return RegistryError(
            response.status,
            "",
            f"received unexpected HTTP status: {response.status} {response.reason or ''}".rstrip(),
        )
