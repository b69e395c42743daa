"""Library of lifecycle: the Images service of images.proto."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

import grpc.aio
import orjson

from images.model import AuthConfig, Image, Progress, Removal, Use
from lifecycle import filters as filtering
from lifecycle._pb import images_pb2 as pb
from lifecycle._pb import types_pb2
from lifecycle._pb.images_pb2_grpc import ImagesServicer
from lifecycle._pb.types_pb2 import Empty
from lifecycle.engine import Engine

Context = grpc.aio.ServicerContext[Any, Any]
Work = Callable[[Callable[[Progress], None]], Awaitable[object]]

# Lines that only move a counter are dropped while a client is this far behind.
QUEUE_LENGTH = 1000

FILTERS = frozenset({"dangling", "label", "label!", "before", "since", "until", "reference"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})


class Images(ImagesServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._images = engine.images

    async def Pull(
        self, request: pb.PullRequest, context: Context
    ) -> AsyncIterator[types_pb2.Progress]:
        exchange = self._images.exchange
        auth = auth_config(request.auth) if request.HasField("auth") else None
        platform = request.platform or None

        async def work(progress: Callable[[Progress], None]) -> None:
            name = request.reference
            if request.all_tags:
                pulled = await exchange.pull_all(
                    name, auth=auth, platform=platform, progress=progress
                )
            else:
                pulled = [
                    await exchange.pull(name, auth=auth, platform=platform, progress=progress)
                ]
            for one in pulled:
                self._publish("pull", one.reference, one.reference)

        async for line in follow(work):
            yield line

    async def Push(
        self, request: pb.PushRequest, context: Context
    ) -> AsyncIterator[types_pb2.Progress]:
        exchange = self._images.exchange
        auth = auth_config(request.auth) if request.HasField("auth") else None
        if request.platform:
            self._images.resolve(request.reference, request.platform)

        async def work(progress: Callable[[Progress], None]) -> None:
            if request.all_tags:
                await exchange.push_all(request.reference, auth=auth, progress=progress)
            else:
                await exchange.push(request.reference, auth=auth, progress=progress)
            self._publish("push", request.reference, request.reference)

        async for line in follow(work):
            yield line

    async def Load(
        self, request: pb.LoadRequest, context: Context
    ) -> AsyncIterator[types_pb2.Progress]:
        descriptor = self._engine.streams.claim(request.input.token)

        async def work(progress: Callable[[Progress], None]) -> None:
            try:
                loaded = await self._images.load(
                    descriptor,
                    quiet=request.quiet,
                    platform=request.platform or None,
                    progress=progress,
                )
            finally:
                os.close(descriptor)
            for image in loaded:
                self._publish("load", image.id, image.id)

        async for line in follow(work):
            yield line

    async def Save(self, request: pb.SaveRequest, context: Context) -> Empty:
        descriptor = self._engine.streams.claim(request.output.token)
        try:
            saved = await self._images.save(
                list(request.references), descriptor, platform=request.platform or None
            )
        finally:
            os.close(descriptor)
        for image_id in saved:
            self._publish("save", image_id, image_id)
        return Empty()

    async def Import(
        self, request: pb.ImportRequest, context: Context
    ) -> AsyncIterator[types_pb2.Progress]:
        descriptor = self._engine.streams.claim(request.input.token)

        async def work(progress: Callable[[Progress], None]) -> None:
            try:
                image = await self._images.import_(
                    descriptor,
                    name=request.reference or None,
                    changes=list(request.changes),
                    message=request.message,
                    platform=request.platform or None,
                    progress=progress,
                )
            finally:
                os.close(descriptor)
            self._publish("import", image.id, request.reference or image.id)

        async for line in follow(work):
            yield line

    async def Get(self, request: pb.ImageRef, context: Context) -> pb.Image:
        image = self._images.resolve(request.ref, request.platform or None)
        message = self._describe(image, self._use())
        message.snapshot.update(self._images.details.image_snapshot(image))
        sizes = self._images.details.layer_sizes(image)
        for diff_id, size in zip(image.diff_ids, sizes, strict=True):
            message.history_sizes.add(diff_id=diff_id, size=size)
        return message

    async def List(self, request: pb.ListImagesRequest, context: Context) -> pb.ImageList:
        filters = filtering.by_key(request.filters, FILTERS)
        found = self._images.find(filters, intermediate=request.all)
        use = self._use()
        shared = self._images.disk_usage().shared_sizes if request.shared_size else {}
        reply = pb.ImageList()
        for image in found:
            message = self._describe(image, use)
            message.shared_size = shared.get(image.id, -1)
            reply.images.append(message)
        return reply

    async def Tag(self, request: pb.TagRequest, context: Context) -> Empty:
        reference = self._images.tag(request.source, request.reference)
        self._publish("tag", self._images.resolve(request.source).id, reference.familiar)
        return Empty()

    async def Remove(self, request: pb.RemoveImageRequest, context: Context) -> pb.RemoveImageReply:
        use = self._use()
        removed = await self._images.remove(
            request.ref,
            force=request.force,
            no_prune=request.no_prune,
            platform=request.platform or None,
            in_use=lambda image_id: use.get(image_id, []),
        )
        return self._removed(removed)

    async def Prune(self, request: pb.PruneImagesRequest, context: Context) -> pb.RemoveImageReply:
        use = self._use()
        pruned = await self._images.prune(
            filtering.by_key(request.filters, PRUNE_FILTERS),
            lambda image_id: use.get(image_id, []),
        )
        reply = self._removed(pruned.removed)
        reply.space_reclaimed = pruned.space_reclaimed
        self._engine.events.publish(
            "image", "prune", "", {"reclaimed": str(pruned.space_reclaimed)}
        )
        return reply

    async def Inspect(self, request: pb.InspectRemoteRequest, context: Context) -> pb.RemoteImage:
        found = await self._images.exchange.inspect_remote(
            request.reference, auth=auth_config(request.auth) if request.HasField("auth") else None
        )
        return pb.RemoteImage(
            media_type=found.media_type,
            digest=found.digest,
            size=found.size,
            platforms=found.platforms,
        )

    def _use(self) -> dict[str, list[Use]]:
        """Which containers have which image."""
        use: dict[str, list[Use]] = {}
        for container in self._engine.containers:
            mounted = {point.image_id for point in container.record.mounts if point.image_id}
            for image_id in {container.record.image_id, *mounted}:
                use.setdefault(image_id, []).append(Use(container.id, container.has_process))
        return use

    def _describe(self, image: Image, use: dict[str, list[Use]]) -> pb.Image:
        return pb.Image(
            id=image.id,
            tags=image.repo_tags,
            digests=image.repo_digests,
            parent=image.parent,
            created=_nanoseconds(image.created),
            size=image.size,
            shared_size=-1,
            containers=len(use.get(image.id, ())),
            config=self._images.details.configuration(image),
            layers=image.diff_ids,
            last_tagged=image.last_tagged,
            comment=image.comment,
            driver=self._images.details.storage_driver,
        )

    def _removed(self, records: list[Removal] | tuple[Removal, ...]) -> pb.RemoveImageReply:
        reply = pb.RemoveImageReply()
        for record in records:
            reply.removed.add(untagged=record.untagged, deleted=record.deleted)
            if record.untagged:
                self._publish("untag", record.untagged, record.untagged)
            elif record.deleted:
                self._publish("delete", record.deleted, record.deleted)
        return reply

    def _publish(self, action: str, actor: str, name: str) -> None:
        self._engine.events.publish("image", action, actor, {"name": name})


async def follow(work: Work) -> AsyncIterator[types_pb2.Progress]:
    """Run ``work`` and yield what it reports; closing the iterator cancels it."""
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()

    def report(line: Progress) -> None:
        if queue.qsize() < QUEUE_LENGTH or line.current is None:
            queue.put_nowait(line)

    task = asyncio.ensure_future(work(report))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (line := await queue.get()) is not None:
            yield _progress(line)
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _progress(line: Progress) -> types_pb2.Progress:
    return types_pb2.Progress(
        id=line.id,
        status=line.status,
        current=line.current or 0,
        total=line.total or 0,
        stream=line.stream,
        aux=orjson.dumps(line.aux) if line.aux is not None else b"",
        hide_counts=line.current is None,
    )


def auth_config(auth: types_pb2.AuthConfig) -> AuthConfig:
    return AuthConfig(
        username=auth.username,
        password=auth.password,
        server_address=auth.server_address,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )


def _nanoseconds(created: str | None) -> int:
    """Of an image's RFC 3339 time; 0 for none, or for one before 1970."""
    if not created:
        return 0
    try:
        return max(0, int(datetime.fromisoformat(created).timestamp() * 1e9))
    except ValueError:
        return 0
