"""Library of lifecycle: the parts that the engine is made of, for whoever needs more than one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common.database import Database
from common.options import EngineOptions
from common.paths import Paths
from images.service import ImageService
from lifecycle.container import Container, ContainerTable
from lifecycle.events import EventLog
from lifecycle.host import Host
from lifecycle.networks import NetworkService
from lifecycle.plugins import Plugins
from lifecycle.remap import Remap
from lifecycle.remote_networks import RemoteNetworks
from lifecycle.shims import Zygote
from lifecycle.streams import StreamRegistry
from lifecycle.volumes import VolumeService
from shim.protocol import Message

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    paths: Paths
    options: EngineOptions
    database: Database
    events: EventLog
    containers: ContainerTable
    images: ImageService
    networks: NetworkService
    remote: RemoteNetworks
    volumes: VolumeService
    plugins: Plugins
    zygote: Zygote
    streams: StreamRegistry
    engine_id: str
    kernel: Host
    warnings: list[str]
    remap: Remap | None  # --userns-remap
    on_shim_event: Callable[[Container, Message], None]
    on_shim_close: Callable[[Container], None]
    on_start_failed: Callable[[Container], None]
    requests: int = 0  # that change a container, and are being worked on
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def cgroup_version(self) -> int:
        return self.kernel.cgroup_version

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` for as long as the engine; its failure is logged, not lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def finish(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Do ``work`` to its end, even if the client that asked for it hangs up meanwhile."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        self.requests += 1
        task.add_done_callback(self._request_finished)
        return await asyncio.shield(task)

    async def cancel_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(
        self, container: Container, action: str, extra: Mapping[str, str] | None = None, at: int = 0
    ) -> None:
        """An event of a container, with its labels, image and name as Docker has them."""
        attributes = dict(container.record.config.labels)
        attributes["image"] = container.record.config.image
        attributes["name"] = container.name
        attributes.update(extra or {})
        self.events.publish("container", action, container.id, attributes, at=at)

    def _request_finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.requests -= 1

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
