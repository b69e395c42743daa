"""Attach, exec and wait over real sockets; a small gRPC server stands for lifecycle.

The server takes the client's descriptor as lifecycle does, and echoes: what it writes and reads is
then the client's connection itself, or the relay's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import pytest_asyncio

from common.paths import Paths
from compat_api.app import App
from compat_api.client import Engine
from compat_api.connection import as_upgrade, serve
from compat_api.origin import OriginCheck
from compat_api.resources import ROUTES
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb import containers_pb2_grpc
from lifecycle.streams import StreamRegistry

DEADLINE = 20.0
RAW = b"application/vnd.docker.raw-stream"
MULTIPLEXED = b"application/vnd.docker.multiplexed-stream"


class Echo:
    """Joins descriptors: writes the head, the early bytes and all that comes, then the end."""

    def __init__(self, streams: StreamRegistry) -> None:
        self.streams = streams
        self.tasks: set[asyncio.Task[None]] = set()

    def join(self, stream: Any, *, tty: bool) -> None:
        client = socket.socket(fileno=self.streams.claim(stream.token))
        client.setblocking(False)
        client.send(stream.head_tty if tty else stream.head_plain)
        task = asyncio.create_task(self._echo(client, stream.early))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _echo(self, client: socket.socket, early: bytes) -> None:
        loop = asyncio.get_running_loop()
        with client:
            data = early or await loop.sock_recv(client, 4096)
            while data:
                await loop.sock_sendall(client, b"<" + data + b">")
                data = await loop.sock_recv(client, 4096)
            await loop.sock_sendall(client, b"end")


class Containers(containers_pb2_grpc.ContainersServicer):
    def __init__(self, echo: Echo) -> None:
        self.echo = echo
        self.exited = asyncio.Event()
        self.waits_ended = asyncio.Event()

    async def Attach(self, request: Any, context: Any) -> pb.AttachReply:
        if request.ref == "nope":
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such container: nope")
        tty = request.ref == "tty"
        if request.wait_only or request.ref == "stopped":
            return pb.AttachReply(tty=tty)
        self.echo.join(request.stream, tty=tty)
        return pb.AttachReply(joined=True, tty=tty)

    async def Wait(self, request: Any, context: Any) -> AsyncIterator[pb.WaitReply]:
        try:
            yield pb.WaitReply(registered=True)
            await self.exited.wait()
            yield pb.WaitReply(exit_code=7)
        finally:
            self.waits_ended.set()

    async def Get(self, request: Any, context: Any) -> pb.Container:
        raise RuntimeError("a bug")


class Execs(containers_pb2_grpc.ExecsServicer):
    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    async def Get(self, request: Any, context: Any) -> pb.Exec:
        return pb.Exec(id=request.id)

    async def Start(self, request: Any, context: Any) -> pb.StartExecReply:
        if request.id == "again":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "exec command has already run")
        if request.id == "broken":
            descriptor = self.echo.streams.claim(request.stream.token)
            os.write(descriptor, request.stream.head_plain)
            os.close(descriptor)
            return pb.StartExecReply(failure="not found")
        self.echo.join(request.stream, tty=False)
        return pb.StartExecReply()


class Service:
    """The API on a unix socket and on TLS, in front of the fake lifecycle."""

    def __init__(self, directory: Path, containers: Containers, tls_port: int) -> None:
        self.path = str(directory / "api.sock")
        self.containers = containers
        self.tls_port = tls_port
        self.certificate = directory / "cert.pem"

    async def open(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        writer.write(request)
        return reader, writer

    async def answer(self, request: bytes) -> bytes:
        """All that comes until the server closes."""
        reader, writer = await self.open(request)
        try:
            async with asyncio.timeout(DEADLINE):
                return await reader.read()
        finally:
            writer.close()


def make_certificate(directory: Path) -> ssl.SSLContext:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", "key.pem"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", "cert.pem"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    paths = Paths(exec_root=tmp_path)
    streams = StreamRegistry(paths.streams_socket)
    streams.open()
    echo = Echo(streams)
    containers = Containers(echo)  # type: ignore[abstract]
    lifecycle = grpc.aio.server()
    containers_pb2_grpc.add_ContainersServicer_to_server(containers, lifecycle)
    containers_pb2_grpc.add_ExecsServicer_to_server(
        Execs(echo),  # type: ignore[abstract]
        lifecycle,
    )
    lifecycle.add_insecure_port(f"unix:{paths.lifecycle_socket}")
    await lifecycle.start()
    engine = Engine(paths)
    loop = asyncio.get_running_loop()
    factory = serve(App(engine, ROUTES).handler())
    unix = await loop.create_unix_server(factory, str(tmp_path / "api.sock"))
    tls = await loop.create_server(factory, "127.0.0.1", 0, ssl=make_certificate(tmp_path))
    yield Service(tmp_path, containers, tls.sockets[0].getsockname()[1])
    unix.close()
    tls.close()
    await engine.close()
    await lifecycle.stop(None)
    await asyncio.gather(*echo.tasks, return_exceptions=True)
    streams.close()


def post(target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: d", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")
JSON = "Content-Type: application/json"


async def half_close(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.write_eof()


@pytest.mark.parametrize(
    ("name", "version", "content_type"),
    [("box", "1.51", MULTIPLEXED), ("tty", "1.51", RAW), ("box", "1.41", RAW)],
)
async def test_attach_upgrades(
    service: Service, name: str, version: str, content_type: bytes
) -> None:
    target = f"/v{version}/containers/{name}/attach?stream=1&stdin=1&stdout=1"
    reader, writer = await service.open(post(target, *UPGRADE))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head == (
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: " + content_type + b"\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    writer.write(b"hello")
    assert await reader.readexactly(7) == b"<hello>"
    await half_close(writer)
    # The client's end is not the stream's: what is still to come comes.
    assert await reader.read() == b"end"
    writer.close()


@pytest.mark.parametrize("headers", [UPGRADE, ()], ids=["upgrade", "plain"])
async def test_bytes_right_behind_the_request_are_not_lost(
    service: Service, headers: tuple[str, ...]
) -> None:
    target = "/containers/box/attach?stream=1&stdin=1"
    reader, writer = await service.open(post(target, *headers) + b"GET early\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 " if headers else b"HTTP/1.1 200 OK\r\n")
    assert await reader.readuntil(b">") == b"<GET early\r\n\r\n>"
    await half_close(writer)
    assert await reader.read() == b"end"
    writer.close()


async def test_errors_of_attach_are_on_the_stream(service: Service) -> None:
    expected = (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
        b"No such container: nope\r\n"
    )
    target = "/containers/nope/attach?stream=1"
    assert await service.answer(post(target, *UPGRADE)) == expected
    assert await service.answer(post(target)) == expected
    keys = await service.answer(post("/containers/box/attach?stream=1&detachKeys=foo", *UPGRADE))
    assert keys.endswith(b"Invalid detach keys (foo) provided\r\n")


async def test_attach_to_a_stopped_container_stays_open(service: Service) -> None:
    reader, writer = await service.open(post("/containers/stopped/attach?stream=1", *UPGRADE))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)
    await half_close(writer)
    assert await reader.read() == b""
    writer.close()


async def test_exec_with_a_body(service: Service) -> None:
    body = b'{"Detach":false,"Tty":false}'
    request = post("/exec/box/start", *UPGRADE, JSON, body=body) + b"early"
    reader, writer = await service.open(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: " + MULTIPLEXED)
    assert b"Api-Version: 1.51\r\n" in head
    assert await reader.readuntil(b">") == b"<early>"
    await half_close(writer)
    assert await reader.read() == b"end"
    writer.close()


async def test_failures_of_an_exec_are_on_the_stream(service: Service) -> None:
    for name, text, number in (("broken", b"not found\r\n", 2), ("again", b"has already run", 1)):
        request = post(f"/exec/{name}/start", *UPGRADE, JSON, body=b'{"Detach":false}')
        head, _, stream = (await service.answer(request)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert stream[0] == number
        assert int.from_bytes(stream[4:8], "big") == len(stream) - 8
        assert text in stream


async def test_tls_is_relayed(service: Service) -> None:
    context = ssl.create_default_context(cafile=service.certificate)
    reader, writer = await asyncio.open_connection(
        "localhost", service.tls_port, ssl=context, family=socket.AF_INET
    )
    writer.write(post("/containers/box/attach?stream=1&stdin=1", *UPGRADE))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    big = os.urandom(1 << 20).replace(b">", b"x")
    writer.write(big)
    received = b""
    while len(received.replace(b"><", b"")) < len(big) + 2:
        received += await reader.read(65536)
    assert received.replace(b"><", b"")[1:-1] == big
    writer.close()
    await writer.wait_closed()


async def test_wait_sends_its_head_at_once(service: Service) -> None:
    reader, writer = await service.open(post("/containers/box/wait?condition=next-exit"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert b"Content-Type: application/json\r\n" in head
    service.containers.exited.set()
    assert await reader.readuntil(b"0\r\n\r\n") == b'11\r\n{"StatusCode":7}\n\r\n0\r\n\r\n'
    writer.close()


async def test_a_client_that_leaves_ends_its_wait(service: Service) -> None:
    reader, writer = await service.open(post("/containers/box/wait"))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    async with asyncio.timeout(DEADLINE):
        await service.containers.waits_ended.wait()


async def test_a_bug_is_a_500_with_json(service: Service) -> None:
    reader, writer = await service.open(b"GET /containers/x/json HTTP/1.1\r\nHost: d\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"Content-Type: application/json\r\n" in head
    # The connection goes on.
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    assert "message" in orjson.loads(await reader.readexactly(length))
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    assert (await reader.readuntil(b"OK")).startswith(b"HTTP/1.1 200 OK")
    writer.close()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /v1.99/_ping", 400),
        ("GET /v1.12/_ping", 400),
        ("GET /nope", 404),
        ("PATCH /containers/json", 404),
        ("POST /containers//start", 301),
        ("OPTIONS /anything/at/all", 200),
        ("GET /containers/json?filters=x", 400),
        ("GET http://d/v1.51/_ping", 200),
    ],
)
async def test_statuses(service: Service, request_line: str, status: int) -> None:
    reader, writer = await service.open(f"{request_line} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert int(head.split(b" ", 2)[1]) == status
    writer.close()


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Host": "localhost:2375"}, False),
        ({"Host": "127.0.0.1:2375"}, False),
        ({"Host": "[::1]:2375"}, False),
        ({"Host": "box"}, False),
        ({"Host": "evil.example"}, True),
        ({"Host": "localhost", "Origin": "http://localhost"}, True),
        ({"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_browsers_are_kept_out(headers: dict[str, str], *, refused: bool) -> None:
    assert (OriginCheck(frozenset(("box",))).refusal(headers) is not None) == refused


@pytest.mark.parametrize(
    ("data", "added"),
    [
        (b"POST /v1.51/containers/x/attach?a=b HTTP/1.1\r\nHost: d\r\n\r\n", 3),
        (b"POST /exec/x/start HTTP/1.1\r\nHost: d\r\n\r\n", 3),
        (b"POST /exec/x/start HTTP/1.1\r\nupgrade: tcp\r\n\r\n", 2),
        (b"POST /containers/x/start HTTP/1.1\r\nHost: d\r\n\r\n", 0),
    ],
)
def test_as_upgrade(data: bytes, added: int) -> None:
    assert as_upgrade(data).count(b"\r\n") == data.count(b"\r\n") + added


async def test_a_head_in_pieces_is_one_request(service: Service) -> None:
    request = post("/containers/box/attach?stream=1&stdin=1", *UPGRADE) + b"early"
    reader, writer = await service.open(request[:30])
    for piece in (request[30:40], request[40:]):
        # Each piece is a segment of its own when the one before has left.
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(piece)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert await reader.readuntil(b">") == b"<early>"
    await half_close(writer)
    assert await reader.read() == b"end"
    writer.close()
