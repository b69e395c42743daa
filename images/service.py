"""Library: the images of the engine; lifecycle's one door to this package.

Owns ``content/`` and ``snapshots/`` below the data root and the tables of ``images/store.py``. Runs
in lifecycle's event loop: what takes longer than a query or a rename runs in the worker process
(``images/worker.py``) or in a thread. Imports neither aiohttp nor any codec.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from common.database import Database
from common.errors import InvalidArgument, NotFound
from images import changes as dockerfile
from images import chosen, config, listing, reference
from images.client import IDLE_SECONDS, OnProgress, WorkerClient
from images.collector import Collector
from images.content import ContentStore
from images.details import Details
from images.endpoints import RegistryOptions
from images.exchange import Exchange
from images.model import (
    DiskUsage,
    HistoryEntry,
    HistoryItem,
    Image,
    ImageConfig,
    ImageRecord,
    Mount,
    Platform,
    Progress,
    Pruned,
    Removal,
)
from images.reference import Reference
from images.removal import InUse, Remover
from images.snapshots import COPY, Snapshots
from images.store import ImageStore

WORKER_END_SECONDS = 10.0

log = logging.getLogger("longshore.images")


class ImageService:
    def __init__(
        self,
        data_root: Path,
        database: Database,
        *,
        registries: RegistryOptions | None = None,
        worker_idle: float = IDLE_SECONDS,
        storage_driver: str = "",
    ) -> None:
        self._driver = storage_driver
        self._content = ContentStore(data_root / "content")
        self._snapshots = Snapshots(data_root / "snapshots")
        self._store = ImageStore(database, self._content)
        self.details = Details(self._store, self._content, self._snapshots)
        self._database = database
        self._collector = Collector(self._store, self._content, self._snapshots)
        self._worker = WorkerClient(data_root, self._collector, idle=worker_idle)
        self.exchange = Exchange(
            self._store, database, self._collector, self._worker, registries or RegistryOptions()
        )

    async def open(self) -> None:
        """Make the directories, and remove what a crash left; before the first container starts."""
        self._content.create()
        self._snapshots.create(self._driver)
        if not await self._content.is_left_alone(WORKER_END_SECONDS):
            log.warning("the image worker of a lifecycle process that died is still at work")
        self._collector.start()

    async def close(self) -> None:
        await self._worker.close()

    @property
    def worker_pid(self) -> int | None:
        """None while no worker runs."""
        return self._worker.pid

    # ---- finding

    def resolve(self, name: str, platform: str | None = None) -> Image:
        """By reference, id or the start of an id; NotFound says ``No such image: name:tag``.

        An image for another platform than the given one counts as missing, too: clients pull then.
        """
        image = self._store.resolve(name)
        wanted = Platform.parse(platform) if platform else None
        if (
            wanted is not None
            and not wanted.matches(image.platform)
            and not self.details.is_listed_for(image, wanted)
        ):
            raise NotFound(
                f"image with reference {_shown(name)} was found but its platform"
                f" ({image.platform}) does not match the specified platform ({platform})"
            )
        return image

    def find(
        self, filters: listing.Filters | None = None, *, intermediate: bool = True
    ) -> list[Image]:
        """Without ``intermediate``, no nameless images that others were made from."""
        images = [self._store.get(image_id) for image_id in self._store.ids()]
        if not intermediate:
            parents = {image.parent for image in images}
            images = [
                image
                for image in images
                if image.repo_tags or image.repo_digests or image.id not in parents
            ]
        return listing.select(images, filters or {}, self.resolve)

    def history(self, name: str) -> list[HistoryItem]:
        return listing.history(self.resolve(name), self._store)

    def disk_usage(self) -> DiskUsage:
        return listing.disk_usage(self.find(), self._store)

    # ---- names

    def tag(self, name: str, target: str) -> Reference:
        """Give the image ``name`` another name too."""
        wanted = self._new_tag(target)
        if wanted is None:
            raise InvalidArgument("invalid reference format")
        image = self.resolve(name)
        with self._database.transaction():
            self._store.set_tag(wanted, image.id)
        return wanted

    async def remove(
        self,
        name: str,
        *,
        force: bool,
        no_prune: bool,
        in_use: InUse,
        platform: str | None = None,
    ) -> list[Removal]:
        image = self.resolve(name, platform)
        blobs = self._store.known_blobs()
        remover = Remover(self._store, in_use, force=force, prune=not no_prune)
        with self._database.transaction():
            remover.remove(image, name)
        layers = await self._collector.collect(blobs=blobs)
        return [*remover.records, *(Removal(deleted=chain_id) for chain_id in layers)]

    async def prune(self, filters: listing.Filters, in_use: InUse) -> Pruned:
        """Remove the images that no container uses: the nameless ones, or all of them."""
        sizes = self._store.layer_sizes()
        blobs = self._store.known_blobs()
        removed: list[Removal] = []
        everything = [self._store.get(image_id) for image_id in self._store.ids()]
        for image in listing.prunable(everything, filters):
            if in_use(image.id) or self._store.children(image.id):
                continue
            remover = Remover(self._store, in_use, force=True, prune=True)
            with self._database.transaction():
                remover.remove(image, image.id)
            removed += remover.records
        layers = await self._collector.collect(blobs=blobs)
        removed += (Removal(deleted=chain_id) for chain_id in layers)
        return Pruned(tuple(removed), sum(sizes.get(chain_id, 0) for chain_id in layers))

    # ---- archives

    async def save(
        self, names: Sequence[str], fd: int, *, platform: str | None = None
    ) -> list[str]:
        """Write the images to ``fd``: one with its tag, or a repository with all; their ids.

        A tag stands for all platforms that are here of its index, unless ``platform`` picks one.
        """
        images = chosen.find(self._store, names, platform)
        async with self._operation() as operation:
            await self._worker.run(operation, "save", {"images": images}, fds=[fd])
        return [image["id"] for image in images]

    async def load(
        self,
        fd: int,
        *,
        quiet: bool = False,
        platform: str | None = None,
        progress: OnProgress,
    ) -> list[Image]:
        """The images of a ``docker save`` archive or OCI layout; ``fd`` stays the caller's."""
        async with self._operation() as operation:
            answer = await self._worker.run(
                operation,
                "load",
                {"quiet": quiet, "platform": platform},
                fds=[fd],
                progress=progress,
            )
            return [
                self._commit_loaded(ImageRecord.from_json(item), progress)
                for item in answer["images"]
            ]

    async def import_(
        self,
        fd: int,
        *,
        name: str | None,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        progress: OnProgress = lambda _line: None,
    ) -> Image:
        """An image of one layer from the tar of a root file system."""
        target = self._new_tag(name)
        message = message or "Imported from -"
        made_for = Platform.parse(platform) if platform else Platform.of_host()
        now = _now()
        configuration = config.Configuration(
            platform=made_for,
            config=dockerfile.apply(ImageConfig(), changes),
            diff_ids=(),
            history=(HistoryEntry(created=now, comment=message),),
            created=now,
            author="",
            comment=message,
            docker_version="",
        )
        async with self._operation() as operation:
            text = config.serialize(configuration).decode()
            answer = await self._worker.run(
                operation, "import", {"configuration": text}, fds=[fd], progress=progress
            )
            record = ImageRecord.from_json(answer["image"])
            with self._database.transaction():
                self._store.add(record)
                if target is not None:
                    self._store.set_tag(target, record.id)
        progress(Progress(status=record.id))
        return self._store.get(record.id)

    async def commit(
        self,
        container_id: str,
        *,
        image: Image | None,
        image_config: ImageConfig,
        name: str | None,
        author: str = "",
        comment: str = "",
        created_by: str = "",
    ) -> Image:
        """An image of the container's changes on top of ``image``, the one it was made from."""
        target = self._new_tag(name)
        now = _now()
        entry = HistoryEntry(now, created_by, author, comment)
        configuration = config.Configuration(
            platform=image.platform if image else Platform.of_host(),
            config=image_config,
            diff_ids=(),
            history=((*image.history, entry) if image else (entry,)),
            created=now,
            author=author,
            comment=comment,
            docker_version="",
        )
        arguments = {
            "container": container_id,
            "configuration": config.serialize(configuration).decode(),
            "diff_ids": image.diff_ids if image else (),
        }
        async with self._operation() as operation:
            if image is not None:
                self._collector.lease(operation, image.chain_ids, [image.id])
            answer = await self._worker.run(operation, "commit", arguments)
            record = ImageRecord.from_json(answer["image"])
            with self._database.transaction():
                below = self._store.layers(image.id) if image else ()
                record = replace(record, layers=(*below, *record.layers))
                self._store.add(record, parent=image.id if image else "")
                if target is not None:
                    self._store.set_tag(target, record.id)
        return self._store.get(record.id)

    async def decompress(self, source: int, target: int) -> None:
        """Pass on a client's tar, compressed or not, as a plain one; ``target`` is closed."""
        try:
            async with self._operation() as operation:
                await self._worker.run(operation, "decompress", {}, fds=[source, target])
        finally:
            os.close(target)

    # ---- containers

    async def prepare_container(self, container_id: str, image: Image | None) -> list[Mount]:
        """The mounts that make the container's root, which is empty without an image; its
        directories are there afterwards.
        """
        chain_ids = image.chain_ids if image else ()
        self._store.add_container(container_id, image.top_layer if image else None)
        if self._snapshots.driver == COPY:
            return await asyncio.to_thread(
                self._snapshots.prepare_container, container_id, chain_ids
            )
        return self._snapshots.prepare_container(container_id, chain_ids)

    def container_mounts(self, container_id: str) -> list[Mount]:
        """What ``prepare_container`` said, for a container that has it: needs no image."""
        chain_ids = self._store.container_chain(container_id)
        if chain_ids is None:
            raise NotFound(f"No such container: {container_id}")
        return self._snapshots.prepare_container(container_id, chain_ids)

    async def remove_container(self, container_id: str) -> None:
        """Remove the container's directories, and the layers that only it still needed."""
        chain = self._store.container_chain(container_id)
        self._store.remove_container(container_id)
        await self._collector.discard_container(container_id)
        if chain and not self._store.is_layer_of_image(chain[-1]):
            await self._collector.collect()

    def containers(self) -> set[str]:
        """The containers that have directories here, for lifecycle's check at start."""
        return self._store.containers()

    # ---- inside

    def _new_tag(self, name: str | None) -> Reference | None:
        if not name:
            return None
        target = reference.parse(name)
        if target.digest is not None:
            raise InvalidArgument("cannot import digest reference")
        if target.familiar_name == "sha256":
            raise InvalidArgument(
                "refusing to create an ambiguous tag using digest algorithm as name"
            )
        return target.with_default_tag()

    def _operation(self) -> AbstractAsyncContextManager[int]:
        """The number of an operation whose leases last until its image is committed."""
        return self._collector.operation(self._worker.start_operation())

    def _commit_loaded(self, record: ImageRecord, progress: OnProgress) -> Image:
        lines = []
        with self._database.transaction():
            self._store.add(record)
            for name in record.references:
                wanted = reference.parse(name).with_default_tag()
                previous = self._store.set_tag(wanted, record.id)
                if previous is not None:
                    lines.append(
                        f"The image {wanted.familiar} already exists, renaming the old one with ID"
                        f" {previous} to empty string\n"
                    )
                lines.append(f"Loaded image: {wanted.familiar}\n")
        for line in lines or [f"Loaded image ID: {record.id}\n"]:
            progress(Progress(stream=line))
        return self._store.get(record.id)


def _shown(name: str) -> str:
    """A canonical name in its familiar form; any other as the client wrote it."""
    try:
        parsed = reference.parse(name)
    except InvalidArgument:
        return name
    return parsed.familiar if str(parsed) == name else name


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
