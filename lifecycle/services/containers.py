"""Library of lifecycle: the Containers and Execs services of containers.proto."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc.aio

from common.errors import NotFound
from lifecycle import (
    archive,
    commit,
    create,
    execs,
    links,
    listing,
    operations,
    remove,
    update,
    view,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.containers_pb2_grpc import ContainersServicer, ExecsServicer
from lifecycle._pb.types_pb2 import Empty, PruneReport
from lifecycle.engine import Engine, Result

Context = grpc.aio.ServicerContext[Any, Any]


class Containers(ContainersServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._find = engine.containers.find

    async def Create(
        self, request: pb.CreateContainerRequest, context: Context
    ) -> pb.CreateContainerReply:
        return await self._finish(create.create(self._engine, request))

    async def Get(self, request: pb.ContainerRef, context: Context) -> pb.Container:
        return await view.inspect(self._engine, self._find(request.ref), size=request.size)

    async def List(self, request: pb.ListContainersRequest, context: Context) -> pb.ContainerList:
        chosen = listing.Listing(self._engine.containers, request.filters, self._ancestors).select(
            include_stopped=request.all, limit=request.limit
        )
        return pb.ContainerList(
            containers=await view.summaries(self._engine, chosen, size=request.size)
        )

    async def Start(self, request: pb.StartRequest, context: Context) -> pb.StartReply:
        was_running = await self._finish(operations.start(self._engine, self._find(request.ref)))
        return pb.StartReply(was_running=was_running)

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopReply:
        was_stopped = await self._finish(
            operations.stop(
                self._engine,
                self._find(request.ref),
                timeout=_timeout(request),
                signal=request.signal,
            )
        )
        return pb.StopReply(was_stopped=was_stopped)

    async def Restart(self, request: pb.StopRequest, context: Context) -> Empty:
        await self._finish(
            operations.restart(
                self._engine,
                self._find(request.ref),
                timeout=_timeout(request),
                signal=request.signal,
            )
        )
        return Empty()

    async def Kill(self, request: pb.KillRequest, context: Context) -> Empty:
        await self._finish(operations.kill(self._engine, self._find(request.ref), request.signal))
        return Empty()

    async def Pause(self, request: pb.ContainerRef, context: Context) -> Empty:
        await self._finish(operations.pause(self._engine, self._find(request.ref)))
        return Empty()

    async def Unpause(self, request: pb.ContainerRef, context: Context) -> Empty:
        await self._finish(operations.unpause(self._engine, self._find(request.ref)))
        return Empty()

    async def Rename(self, request: pb.RenameRequest, context: Context) -> Empty:
        await self._finish(operations.rename(self._engine, self._find(request.ref), request.name))
        return Empty()

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateReply:
        return await self._finish(update.update(self._engine, self._find(request.ref), request))

    async def Remove(self, request: pb.RemoveContainerRequest, context: Context) -> Empty:
        if request.link:
            await links.remove(self._engine.containers, request.ref)
            return Empty()
        await self._finish(
            remove.remove(
                self._engine, self._find(request.ref), force=request.force, volumes=request.volumes
            )
        )
        return Empty()

    async def Prune(self, request: pb.PruneContainersRequest, context: Context) -> PruneReport:
        report = PruneReport()
        for container in listing.prunable(self._engine.containers, request.filters):
            report.space_reclaimed += await view.layer_size(self._engine, container)
            await remove.remove(self._engine, container, force=False, volumes=False)
            report.deleted.append(container.id)
        self._engine.events.publish(
            "container", "prune", "", {"reclaimed": str(report.space_reclaimed)}
        )
        return report

    async def Resize(self, request: pb.ResizeRequest, context: Context) -> Empty:
        await operations.resize(
            self._engine, self._find(request.ref), request.height, request.width
        )
        return Empty()

    async def Wait(self, request: pb.WaitRequest, context: Context) -> AsyncIterator[pb.WaitReply]:
        async for reply in operations.wait(self._find(request.ref), request.condition):
            yield reply

    async def Attach(self, request: pb.AttachRequest, context: Context) -> pb.AttachReply:
        return await operations.attach(self._engine, request)

    async def GetLog(self, request: pb.ContainerRef, context: Context) -> pb.Log:
        return view.log(self._find(request.ref))

    async def Top(self, request: pb.ContainerRef, context: Context) -> pb.ProcessIds:
        found = self._find(request.ref)
        pids = operations.process_ids(self._engine, found)
        self._engine.publish(found, "top")
        return pb.ProcessIds(pids=pids)

    async def GetStats(self, request: pb.ContainerRef, context: Context) -> pb.Stats:
        return await view.stats(self._find(request.ref))

    async def GetChanges(self, request: pb.ContainerRef, context: Context) -> pb.ChangeList:
        return await archive.changes(self._engine, self._find(request.ref))

    async def Export(self, request: pb.ExportRequest, context: Context) -> Empty:
        await archive.export(self._engine, request)
        return Empty()

    async def StatPath(self, request: pb.PathRequest, context: Context) -> pb.PathStat:
        return await archive.stat_path(self._engine, request)

    async def GetArchive(self, request: pb.ArchiveRequest, context: Context) -> Empty:
        await archive.get(self._engine, request)
        return Empty()

    async def PutArchive(self, request: pb.ArchiveRequest, context: Context) -> Empty:
        await archive.put(self._engine, request)
        return Empty()

    async def Commit(self, request: pb.CommitRequest, context: Context) -> pb.CommitReply:
        return await commit.commit(self._engine, request)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await self._engine.finish(work, "request")

    def _ancestors(self, reference: str) -> frozenset[str]:
        """An ancestor that does not exist has no containers, and is no error."""
        try:
            image = self._engine.images.resolve(reference)
        except NotFound:
            return frozenset()
        return self._engine.images.details.descendants(image)


class Execs(ExecsServicer):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Create(self, request: pb.CreateExecRequest, context: Context) -> pb.CreateExecReply:
        execution = await execs.create(self._engine, request)
        return pb.CreateExecReply(id=execution.id)

    async def Get(self, request: pb.ExecRef, context: Context) -> pb.Exec:
        return execs.find(self._engine, request.id).describe()

    async def Start(self, request: pb.StartExecRequest, context: Context) -> pb.StartExecReply:
        return await execs.start(self._engine, request)

    async def Resize(self, request: pb.ResizeRequest, context: Context) -> Empty:
        await execs.resize(self._engine, request)
        return Empty()


def _timeout(request: pb.StopRequest) -> int | None:
    return request.timeout if request.HasField("timeout") else None
