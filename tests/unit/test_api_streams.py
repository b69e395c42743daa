"""Pulls, tars, events and logs over a real socket; a small gRPC server stands for lifecycle."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from aiohttp import ClientPayloadError, ClientSession, UnixConnector, web

from common.paths import Paths
from compat_api.app import App
from compat_api.client import Engine
from compat_api.resources import ROUTES
from lifecycle._pb import (
    containers_pb2,
    containers_pb2_grpc,
    images_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    types_pb2,
)
from lifecycle.streams import StreamRegistry
from tests.unit.test_api_log_reader import entry, texts

DEADLINE = 20.0


class Images(images_pb2_grpc.ImagesServicer):
    def __init__(self, streams: StreamRegistry) -> None:
        self.streams = streams
        self.loaded = b""
        self.cancelled = False
        self.ended = asyncio.Event()

    async def Pull(self, request: Any, context: Any) -> AsyncIterator[types_pb2.Progress]:
        if request.reference == "nope:latest":
            await context.abort(grpc.StatusCode.NOT_FOUND, "manifest for nope:latest not found")
        yield types_pb2.Progress(status=f"Pulling from {request.reference}", id="latest")
        if request.auth.username == "wait":
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        yield types_pb2.Progress(status="Downloading", id="0db6768e0666", current=1, total=2)
        await context.abort(grpc.StatusCode.INTERNAL, "connection lost")

    async def Load(self, request: Any, context: Any) -> AsyncIterator[types_pb2.Progress]:
        try:
            await self.receive(request.input.token)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        yield types_pb2.Progress(stream="Loaded image: x:1\n")

    async def receive(self, token: str) -> None:
        with socket.socket(fileno=self.streams.claim(token)) as source:
            source.setblocking(False)
            while data := await asyncio.get_running_loop().sock_recv(source, 1 << 20):
                self.loaded += data

    async def Save(self, request: Any, context: Any) -> types_pb2.Empty:
        if request.references == ["nope"]:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such image: nope")
        with socket.socket(fileno=self.streams.claim(request.output.token)) as target:
            target.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(
                target, " ".join(request.references).encode() + b"x" * 3_000_000
            )
        if request.references == ["broken"]:
            await context.abort(grpc.StatusCode.INTERNAL, "layer is gone")
        return types_pb2.Empty()


class System(system_pb2_grpc.SystemServicer):
    def __init__(self) -> None:
        self.subscribed: list[system_pb2.SubscribeRequest] = []

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[system_pb2.Event]:
        self.subscribed.append(request)
        yield system_pb2.Event()
        yield system_pb2.Event(
            type="volume", action="create", actor_id="v", time=len(self.subscribed)
        )
        if len(self.subscribed) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")


class Containers(containers_pb2_grpc.ContainersServicer):
    def __init__(self, log: Path) -> None:
        self.log = log
        self.stopped = asyncio.Event()

    async def GetLog(self, request: Any, context: Any) -> containers_pb2.Log:
        path = "" if request.ref == "none" else os.fspath(self.log)
        return containers_pb2.Log(path=path, running=True, container_id="c", tty=request.ref == "t")

    async def Wait(self, request: Any, context: Any) -> AsyncIterator[containers_pb2.WaitReply]:
        assert request.condition == "not-running"
        yield containers_pb2.WaitReply(registered=True)
        await self.stopped.wait()
        yield containers_pb2.WaitReply(exit_code=0)


class Lab:
    def __init__(self, directory: Path) -> None:
        self.paths = Paths(directory / "data", directory)
        self.log = directory / "c-json.log"
        self.streams = StreamRegistry(self.paths.streams_socket)
        self.images = Images(self.streams)  # type: ignore[abstract]
        self.system = System()  # type: ignore[abstract]
        self.containers = Containers(self.log)  # type: ignore[abstract]
        self.http: ClientSession

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Lab]:
        self.streams.open()
        server = grpc.aio.server()
        images_pb2_grpc.add_ImagesServicer_to_server(self.images, server)
        system_pb2_grpc.add_SystemServicer_to_server(self.system, server)
        containers_pb2_grpc.add_ContainersServicer_to_server(self.containers, server)
        server.add_insecure_port(f"unix:{self.paths.lifecycle_socket}")
        await server.start()
        engine = Engine(self.paths)
        app = web.Server(App(engine, ROUTES).handler(), handler_cancellation=True)
        path = os.fspath(self.paths.exec_root / "docker.sock")
        listener = await asyncio.get_running_loop().create_unix_server(app, path)
        try:
            async with ClientSession("http://d", connector=UnixConnector(path)) as self.http:
                yield self
        finally:
            listener.close()
            await app.shutdown(1)
            await engine.close()
            await server.stop(0)
            self.streams.close()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with asyncio.timeout(DEADLINE), Lab(tmp_path).run() as lab:
        yield lab


async def lines(call: Callable[..., Any], *arguments: str, **options: Any) -> list[Any]:
    async with call(*arguments, **options) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Transfer-Encoding"] == "chunked"
        return [orjson.loads(line) for line in (await response.read()).splitlines()]


async def message(call: Awaitable[Any]) -> tuple[int, str]:
    response = await call
    body = orjson.loads(await response.read())
    return response.status, body["message"]


async def test_pull_failure_before_the_first_line_is_a_status(lab: Lab) -> None:
    call = lab.http.post("/v1.51/images/create?fromImage=nope&tag=latest")
    assert await message(call) == (404, "manifest for nope:latest not found")


async def test_pull_failure_after_it_is_in_the_stream(lab: Lab) -> None:
    found = await lines(lab.http.post, "/v1.51/images/create?fromImage=h:5000/x&tag=1")
    assert found == [
        {"status": "Pulling from h:5000/x:1", "id": "latest"},
        {
            "status": "Downloading",
            "progressDetail": {"current": 1, "total": 2},
            "progress": f"[{'=' * 25}>{' ' * 25}]       1B/2B",
            "id": "0db6768e0666",
        },
        {"errorDetail": {"message": "connection lost"}, "error": "connection lost"},
    ]


async def test_client_that_hangs_up_stops_its_pull(lab: Lab) -> None:
    auth = {"X-Registry-Auth": "eyJ1c2VybmFtZSI6IndhaXQifQ"}
    response = await lab.http.post("/images/create?fromImage=x", headers=auth)
    await response.content.readline()
    response.close()
    await lab.images.ended.wait()


async def test_load(lab: Lab) -> None:
    tar = os.urandom(1 << 20) * 5
    found = await lines(lab.http.post, "/v1.51/images/load", data=io.BytesIO(tar))
    assert found == [{"stream": "Loaded image: x:1\n"}]
    assert lab.images.loaded == tar


async def test_load_that_breaks_off_is_cancelled(lab: Lab) -> None:
    path = os.fspath(lab.paths.exec_root / "docker.sock")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(
        b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: 200\r\n\r\n" + b"x" * 100
    )
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    async with asyncio.timeout(DEADLINE):
        while not lab.images.loaded:  # noqa: ASYNC110
            await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    await lab.images.ended.wait()
    assert lab.images.cancelled


@pytest.mark.parametrize(
    ("path", "start"),
    [("/v1.51/images/a/b:1/get", b"a/b:1x"), ("/v1.51/images/get?names=a&names=b", b"a bx")],
)
async def test_save(lab: Lab, path: str, start: bytes) -> None:
    async with lab.http.get(path) as response:
        assert response.headers["Content-Type"] == "application/x-tar"
        body = await response.read()
    assert body.startswith(start)
    assert len(body) == len(start) - 1 + 3_000_000


async def test_failed_save(lab: Lab) -> None:
    assert await message(lab.http.get("/images/nope/get")) == (404, "No such image: nope")
    async with lab.http.get("/images/broken/get") as response:
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_events_go_on_after_a_restart_of_lifecycle(lab: Lab) -> None:
    found = await lines(lab.http.get, "/v1.51/events?since=0")
    assert [(event["Type"], event["timeNano"]) for event in found] == [("volume", 1), ("volume", 2)]
    assert [request.since for request in lab.system.subscribed] == [1, 2]


async def test_bad_event_times(lab: Lab) -> None:
    assert await message(lab.http.get("/events?since=10&until=5")) == (
        400,
        "`since` time (10) cannot be after `until` time (5)",
    )
    assert (await message(lab.http.get("/events?since=zz")))[0] == 500


async def test_followed_log_has_its_head_at_once_and_ends_with_the_container(lab: Lab) -> None:
    lab.log.write_bytes(b"")
    async with lab.http.get("/v1.51/containers/c/logs?stdout=1&follow=1") as response:
        assert response.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
        with lab.log.open("ab", buffering=0) as file:
            file.write(entry("one\n"))
            assert texts(await response.content.readany()) == [b"one\n"]
            file.write(entry("two\n"))
        lab.containers.stopped.set()
        assert texts(await response.read()) == [b"two\n"]


async def test_log_of_a_terminal_is_raw(lab: Lab) -> None:
    lab.log.write_bytes(entry("one\n") * 10)
    async with lab.http.get("/v1.51/containers/t/logs?stdout=1&stderr=1&tail=2") as response:
        assert response.headers["Content-Type"] == "application/vnd.docker.raw-stream"
        assert await response.read() == b"one\none\n"


async def test_bad_logs(lab: Lab) -> None:
    assert await message(lab.http.get("/containers/x/logs")) == (
        400,
        "Bad parameters: you must choose at least one stream",
    )
    assert await message(lab.http.get("/containers/none/logs?stderr=1")) == (
        501,
        "configured logging driver does not support reading",
    )


async def test_builds_and_swarm_say_why_not(lab: Lab) -> None:
    status, text = await message(lab.http.post("/build"))
    assert status == 501
    assert "not supported by this engine" in text
    assert (await message(lab.http.post("/grpc")))[0] == 404
    status, text = await message(lab.http.get("/v1.51/nodes"))
    assert status == 503
    assert text.startswith("This node is not a swarm manager.")
    async with lab.http.get("/v1.51/plugins") as response:
        assert await response.json() == []
