"""Worker: questions to a registry that bring nothing here.

``login`` tries credentials, ``tags`` lists a repository, ``inspect`` tells what a reference is.
Each is one operation of the worker, because credentials and hostile answers are its business.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from common.errors import EngineError, InternalError, NotFound, Unauthenticated
from images import config, manifest, reference
from images.content import DigestMismatch, digest_of
from images.endpoints import RegistryOptions, endpoints
from images.manifest import Index
from images.model import AuthConfig
from images.operation import Operation
from images.pull import translate
from images.reference import Reference
from images.registry import TRANSPORT_ERRORS, Registry, RegistryError, ask, describe

LOGIN_SECONDS = 30
_STATUSES = {status.value: status.phrase for status in HTTPStatus}


async def login(operation: Operation) -> dict[str, Any]:
    """The identity token that the registry gives in the password's place, or ""."""
    arguments = operation.arguments
    auth = AuthConfig(**arguments["auth"])
    options = RegistryOptions.from_json(arguments["options"])
    failure: EngineError | None = None
    # A mirror is not asked: the credentials are not for it.
    for endpoint in endpoints(arguments["domain"], options, push=True):
        registry = Registry(endpoint, auth, options)
        url = f"{endpoint.url}/v2/"
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                return {"identity_token": await registry.login()}
        except Unauthenticated as e:
            raise Unauthenticated(f'Get "{url}": {e}') from e
        except RegistryError as e:
            status = f"{e.status} {_STATUSES.get(e.status, '')}".rstrip()
            failure = InternalError(f"login attempt to {url} failed with status: {status}")
        except TRANSPORT_ERRORS as e:
            failure = InternalError(f'Get "{url}": {describe(e)}')
        finally:
            await registry.close()
    assert failure is not None
    raise failure


async def tags(operation: Operation) -> dict[str, Any]:
    name, auth, options = _parse(operation)
    try:
        return {"tags": await ask(name, auth, options, Registry.tags)}
    except RegistryError as e:
        raise translate(e, name) from e


async def inspect(operation: Operation) -> dict[str, Any]:
    name, auth, options = _parse(operation)
    wanted = name.with_default_tag()

    async def look(registry: Registry) -> dict[str, Any]:
        fetched = await registry.manifest(wanted.digest or wanted.tag or "")
        digest = digest_of(fetched.data)
        if wanted.digest is not None and digest != wanted.digest:
            raise DigestMismatch(f"manifest verification failed for digest {wanted.digest}")
        document = manifest.parse(fetched.data, fetched.content_type)
        if isinstance(document, Index):
            platforms = [str(entry.platform) for entry in document.manifests if entry.platform]
        elif document.config.media_type in (manifest.DOCKER_CONFIG, manifest.OCI_CONFIG):
            data = await registry.blob(document.config.digest)
            if digest_of(data) != document.config.digest:
                raise DigestMismatch(f"content does not match digest {document.config.digest}")
            platforms = [str(config.parse(data).platform)]
        else:
            platforms = []
        return {
            "media_type": document.media_type,
            "digest": digest,
            "size": len(fetched.data),
            "platforms": platforms,
        }

    try:
        return await ask(wanted, auth, options, look)
    except RegistryError as e:
        if e.status == 404:
            raise NotFound(str(e)) from e
        if e.status in (401, 403):
            raise Unauthenticated(str(e)) from e
        raise


def _parse(operation: Operation) -> tuple[Reference, AuthConfig | None, RegistryOptions]:
    arguments = operation.arguments
    auth = AuthConfig(**arguments["auth"]) if arguments["auth"] else None
    options = RegistryOptions.from_json(arguments["options"])
    return reference.parse(arguments["reference"]), auth, options
