"""Library: what goes to and comes from registries; lifecycle's side, part of ``ImageService``.

The worker talks to the registry; here are the names that it is given, and the transactions that
make what it brought exist.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from common.database import Database
from common.errors import InternalError, InvalidArgument, NotFound
from images import reference
from images.client import OnProgress, WorkerClient
from images.collector import Collector
from images.endpoints import RegistryOptions
from images.model import (
    AuthConfig,
    Image,
    ImageRecord,
    Platform,
    Progress,
    PulledImage,
    PushedImage,
    RemoteImage,
)
from images.reference import Reference
from images.store import ImageStore

_HUB = ("index.docker.io", "registry-1.docker.io")


class Exchange:
    def __init__(
        self,
        store: ImageStore,
        database: Database,
        collector: Collector,
        worker: WorkerClient,
        options: RegistryOptions,
    ) -> None:
        self._store = store
        self._database = database
        self._collector = collector
        self._worker = worker
        self._options = options

    async def pull(
        self,
        name: str,
        *,
        auth: AuthConfig | None = None,
        platform: str | None = None,
        progress: OnProgress,
    ) -> PulledImage:
        wanted = reference.parse(name).with_default_tag()
        pulled = await self._pull(wanted, auth, platform, progress)
        _say_status(wanted, newer=pulled.newer, progress=progress)
        if platform and not Platform.parse(platform).matches(pulled.image.platform):
            progress(
                Progress(
                    status=f"WARNING: image with reference {wanted.familiar} was found but its"
                    f" platform ({pulled.image.platform}) does not match the specified platform"
                    f" ({Platform.parse(platform)})"
                )
            )
        return pulled

    async def pull_all(
        self,
        name: str,
        *,
        auth: AuthConfig | None = None,
        platform: str | None = None,
        progress: OnProgress,
    ) -> list[PulledImage]:
        """Every tag of a repository, one after the other; the layers that they share come once."""
        repository = reference.parse(name)
        answer = await self._ask("tags", repository, auth)
        pulled = []
        for tag in answer["tags"]:
            wanted = Reference(repository.domain, repository.path, tag)
            pulled.append(await self._pull(wanted, auth, platform, progress))
        _say_status(repository, newer=any(one.newer for one in pulled), progress=progress)
        return pulled

    async def push(
        self, name: str, *, auth: AuthConfig | None = None, progress: OnProgress
    ) -> PushedImage:
        wanted = reference.parse(name).with_default_tag()
        if wanted.digest is not None:
            raise InvalidArgument("cannot push a digest reference")
        progress(Progress(f"The push refers to repository [{wanted.repository}]"))
        if not self._store.repository_tags(wanted.repository):
            # The client was told where it would have gone, which is all that it gets to know.
            raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_name}")
        return await self._push(wanted, auth, progress)

    async def push_all(
        self, name: str, *, auth: AuthConfig | None = None, progress: OnProgress
    ) -> list[PushedImage]:
        """All tags that the repository has here."""
        repository = reference.parse(name)
        progress(Progress(f"The push refers to repository [{repository.repository}]"))
        tags = self._store.repository_tags(repository.repository)
        if not tags:
            raise NotFound(
                f"An image does not exist locally with the tag: {repository.familiar_name}"
            )
        pushed = []
        for tag, _ in tags:
            wanted = Reference(repository.domain, repository.path, tag)
            pushed.append(await self._push(wanted, auth, progress))
        return pushed

    async def login(self, auth: AuthConfig) -> str:
        """Try the credentials at their server; the token to use in the password's place, or ""."""
        domain = _login_domain(auth.server_address)
        arguments = {"domain": domain, "auth": asdict(auth), "options": self._options.to_json()}
        answer = await self._worker.run(self._worker.start_operation(), "login", arguments)
        return str(answer["identity_token"])

    async def inspect_remote(self, name: str, *, auth: AuthConfig | None = None) -> RemoteImage:
        """What the registry has under ``name``, without pulling it."""
        if reference.is_image_id(name):
            raise InternalError("no manifest found for full image ID")
        answer = await self._ask("inspect", reference.parse(name), auth)
        return RemoteImage(
            answer["media_type"], answer["digest"], answer["size"], tuple(answer["platforms"])
        )

    # ---- inside

    async def _ask(self, operation: str, name: Reference, auth: AuthConfig | None) -> Any:
        arguments = self._arguments(name, auth)
        return await self._worker.run(self._worker.start_operation(), operation, arguments)

    def _arguments(self, name: Reference, auth: AuthConfig | None) -> dict[str, Any]:
        return {
            "reference": str(name),
            "auth": None if auth is None else asdict(auth),
            "options": self._options.to_json(),
        }

    def _operation(self) -> AbstractAsyncContextManager[int]:
        return self._collector.operation(self._worker.start_operation())

    async def _pull(
        self,
        wanted: Reference,
        auth: AuthConfig | None,
        platform: str | None,
        progress: OnProgress,
    ) -> PulledImage:
        arguments = {
            **self._arguments(wanted, auth),
            "platform": platform,
            "missing": sorted(self._store.missing_blobs()),
        }
        async with self._operation() as operation:
            answer = await self._worker.run(operation, "pull", arguments, progress=progress)
            record = ImageRecord.from_json(answer["image"])
            newer = self._commit_pulled(wanted, record, answer["digest"])
        progress(Progress(status=f"Digest: {answer['digest']}"))
        image = self._store.get(record.id)
        return PulledImage(image, wanted.familiar, answer["digest"], newer)

    def _commit_pulled(self, wanted: Reference, record: ImageRecord, digest: str) -> bool:
        """Whether the reference named something else, or nothing, before."""
        with self._database.transaction():
            newer = self._store.lookup(wanted) != record.id
            self._store.add(record)
            self._store.add_digest(wanted.repository, digest, record.id)
            if wanted.digest is None:
                self._store.set_tag(wanted, record.id)
        return newer

    async def _push(
        self, wanted: Reference, auth: AuthConfig | None, progress: OnProgress
    ) -> PushedImage:
        image_id = self._store.lookup(wanted)
        if image_id is None or wanted.tag is None:
            raise NotFound(f"tag does not exist: {wanted.familiar}")
        image = self._store.get(image_id)
        arguments = {
            **self._arguments(wanted, auth),
            "sources": self._mount_sources(image, wanted),
            **self._store.contents(image),
        }
        async with self._operation() as operation:
            answer = await self._worker.run(operation, "push", arguments, progress=progress)
            pushed = PushedImage(wanted.tag, answer["digest"], answer["size"])
            with self._database.transaction():
                if self._store.lookup(wanted) == image_id:
                    self._store.add_digest(wanted.repository, pushed.digest, image_id)
                    self._store.add(ImageRecord(image_id, (), manifest=pushed.digest))
                    for diff_id, digest, media_type, size in answer["compressed"]:
                        self._store.add_layer_blob(diff_id, digest, media_type, size)
        progress(Progress(status=f"{pushed.tag}: digest: {pushed.digest} size: {pushed.size}"))
        progress(Progress(aux={"Tag": pushed.tag, "Digest": pushed.digest, "Size": pushed.size}))
        return pushed

    def _mount_sources(self, image: Image, target: Reference) -> dict[str, list[str]]:
        """For each layer's blob, the paths of other repositories on the target's registry."""
        blobs = [blob[0] for diff_id in image.diff_ids for blob in self._store.layer_blobs(diff_id)]
        sources = {}
        for blob in blobs:
            names = map(reference.parse_repository, self._store.repositories_with(blob))
            sources[blob] = [
                name.path
                for name in names
                if name.domain == target.domain and name.path != target.path
            ]
        return sources


def _say_status(wanted: Reference, *, newer: bool, progress: OnProgress) -> None:
    news = "Downloaded newer image" if newer else "Image is up to date"
    progress(Progress(status=f"Status: {news} for {wanted.familiar}"))


def _login_domain(address: str) -> str:
    """The registry's host of ``docker login``'s argument, which may be a URL; "" is Docker Hub."""
    if not address:
        return reference.DEFAULT_DOMAIN
    parts = urlsplit(address if "://" in address else f"https://{address}")
    # urlsplit drops line ends.
    if not address.isprintable() or not reference.DOMAIN.fullmatch(parts.netloc):
        raise InvalidArgument(f"unable to parse server address: {address[:200]!r}")
    return reference.DEFAULT_DOMAIN if parts.netloc in _HUB else parts.netloc
