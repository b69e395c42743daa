"""Library of lifecycle: the event log that clients follow.

The newest 256 events are kept for ``since``, as Docker does; each subscriber has a bounded queue of
its own, and one that does not read loses its subscription instead of anybody else's time or memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from lifecycle._pb import system_pb2 as pb
from lifecycle._pb.types_pb2 import Filter
from lifecycle.filters import match_labels

KEPT = 256
QUEUE_LENGTH = 1024

# Actions whose detail stands behind a colon; a filter on the bare word matches all of them.
_PREFIXED = ("exec_create", "exec_start", "health_status")


class EventLog:
    def __init__(self) -> None:
        self._kept: deque[pb.Event] = deque(maxlen=KEPT)
        self._queues: set[asyncio.Queue[pb.Event | None]] = set()

    @property
    def listeners(self) -> int:
        return len(self._queues)

    def publish(
        self, kind: str, action: str, actor_id: str, attributes: Mapping[str, str], *, at: int = 0
    ) -> None:
        event = pb.Event(
            type=kind,
            action=action,
            actor_id=actor_id,
            attributes=dict(attributes),
            time=at or time.time_ns(),
        )
        self._kept.append(event)
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._queues.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)

    async def subscribe(self, request: pb.SubscribeRequest) -> AsyncIterator[pb.Event]:
        """Yield an empty event once the subscription stands, then what was asked for."""
        queue: asyncio.Queue[pb.Event | None] = asyncio.Queue(QUEUE_LENGTH)
        past = list(self._kept) if request.since else []
        self._queues.add(queue)
        try:
            yield pb.Event()
            for event in past:
                if event.time >= request.since and _wanted(event, request):
                    yield event
            async for event in _until(queue, request.until):
                if _wanted(event, request):
                    yield event
        finally:
            self._queues.discard(queue)


async def _until(queue: asyncio.Queue[pb.Event | None], until: int) -> AsyncIterator[pb.Event]:
    deadline = None
    if until:
        deadline = asyncio.get_running_loop().time() + max(0.0, (until - time.time_ns()) / 1e9)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            while (event := await queue.get()) is not None:
                yield event


def _wanted(event: pb.Event, request: pb.SubscribeRequest) -> bool:
    if request.until and event.time > request.until:
        return False
    return all(_matches(event, filter_) for filter_ in request.filters)


def _matches(event: pb.Event, filter_: Filter) -> bool:
    values: Sequence[str] = filter_.values
    match filter_.key:
        case "event":
            return any(_matches_action(event.action, value) for value in values)
        case "type":
            return event.type in values
        case "scope":
            return "local" in values
        case "label":
            return match_labels(event.attributes, values)
        case "image":
            return _matches_image(event, values)
        case "daemon" | "container" | "volume" | "network" | "plugin" as kind:
            return event.type == kind and _matches_actor(event, values)
    return False


def _matches_action(action: str, wanted: str) -> bool:
    word = action.partition(":")[0]
    return wanted == action or (word in _PREFIXED and wanted == word)


def _matches_actor(event: pb.Event, values: Sequence[str]) -> bool:
    name = event.attributes.get("name", "")
    return any(event.actor_id.startswith(value) or value == name for value in values if value)


def _matches_image(event: pb.Event, values: Sequence[str]) -> bool:
    """An image filter also finds the containers of the image (moby daemon/events/filter.go)."""
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    candidates = {name, name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name}
    if event.type == "image":
        candidates.add(event.actor_id)
    return bool(candidates.intersection(values))
