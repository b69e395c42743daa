"""Streams whose client stops reading: they wait for it, and keep nothing meanwhile."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import pytest_asyncio

from common.paths import Paths
from compat_api import stats
from compat_api.app import App
from compat_api.client import Engine
from compat_api.connection import serve
from compat_api.resources import ROUTES
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb import containers_pb2_grpc
from lifecycle._pb.system_pb2 import Event, SubscribeRequest
from lifecycle.events import QUEUE_LENGTH, EventLog

SAMPLE = orjson.dumps({"cgroup": {"memory": {
    "usage": 1, "max_usage": 1, "failcnt": 0, "stat": {f"counter{n}": n for n in range(2000)},
}}})  # fmt: skip


class Containers(containers_pb2_grpc.ContainersServicer):
    def __init__(self) -> None:
        self.samples = 0

    async def GetStats(self, request: Any, context: Any) -> pb.Stats:
        self.samples += 1
        return pb.Stats(name="box", json=SAMPLE)


@pytest_asyncio.fixture
async def containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Containers]:
    monkeypatch.setattr(stats, "INTERVAL", 0)
    paths = Paths(exec_root=tmp_path)
    found = Containers()  # type: ignore[abstract]
    lifecycle = grpc.aio.server()
    containers_pb2_grpc.add_ContainersServicer_to_server(found, lifecycle)
    lifecycle.add_insecure_port(f"unix:{paths.lifecycle_socket}")
    await lifecycle.start()
    engine = Engine(paths)
    handler = serve(App(engine, ROUTES).handler())
    server = await asyncio.get_running_loop().create_unix_server(handler, str(tmp_path / "api"))
    yield found
    server.close()
    await engine.close()
    await lifecycle.stop(None)


async def settled(containers: Containers) -> int:
    """How many samples were taken when no more are."""
    async with asyncio.timeout(15):
        while True:
            before = containers.samples
            await asyncio.sleep(0.2)  # many times what one more would take
            if containers.samples == before > 0:
                return before


async def test_stats_wait_for_their_reader(containers: Containers, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await loop.sock_connect(client, str(tmp_path / "api"))
        await loop.sock_sendall(client, b"GET /containers/box/stats HTTP/1.1\r\nHost: d\r\n\r\n")
        taken = await settled(containers)
        assert taken * len(SAMPLE) < 2 << 20  # what the kernel and one response buffer
        received = 0
        while received < 1 << 20:
            received += len(await loop.sock_recv(client, 1 << 16))
        async with asyncio.timeout(15):
            while containers.samples == taken:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    # Gone: nobody asks for more.
    await settled(containers)


async def test_an_event_reader_that_stalls_loses_its_subscription() -> None:
    log = EventLog()
    slow, quick = (log.subscribe(SubscribeRequest()) for _ in range(2))
    assert await anext(slow) == await anext(quick) == Event()
    assert log.listeners == 2
    for number in range(QUEUE_LENGTH + 10):
        log.publish("container", f"act{number}", "id", {})
        assert (await anext(quick)).action == f"act{number}"
    assert log.listeners == 1
    # What was queued is still there, and then the end.
    assert len([event async for event in slow]) == QUEUE_LENGTH - 1
    await quick.aclose()  # type: ignore[attr-defined]
    assert log.listeners == 0
