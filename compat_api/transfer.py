"""longshored: bytes between a client and lifecycle that do not go through gRPC, such as tars.

Lifecycle gets one end of a socketpair by streams.sock, under a token that the gRPC call names; a
handler moves bytes between the other end and its client. Both directions go at the pace of the
slower side.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import orjson
from aiohttp import HttpVersion11, web

from common.errors import Unavailable
from common.paths import Paths
from compat_api.request import Request
from lifecycle._pb import types_pb2 as pb

CHUNK = 256 * 1024
# Longer than the cancellation of a call takes to arrive.
CANCEL_SECONDS = 5.0
# How long a lifecycle that has died may take to come back, and how often to look.
START_SECONDS = 10.0
RETRY_SECONDS = 0.02
DRAIN_SECONDS = 0.01
_ANSWER_SIZE = 4096
# In the kernel, between us and who makes or takes the bytes: both then work at the same time.
BUFFER = 1 << 20
SO_SNDBUFFORCE = 32  # asm-generic/socket.h; the socket module lacks it


async def send_descriptor(paths: Paths, fd: int) -> str:
    """Give lifecycle a duplicate of ``fd``; returns the token that a call names it by."""
    loop = asyncio.get_running_loop()
    token = secrets.token_hex(16)
    with await _connect(paths) as connection:
        try:
            # One small packet on a new connection always fits.
            socket.send_fds(connection, [orjson.dumps({"token": token})], [fd])
            answer = await loop.sock_recv(connection, _ANSWER_SIZE)
        except OSError as error:
            raise Unavailable("the engine's lifecycle service is not running") from error
    if not answer:
        raise Unavailable("the engine's lifecycle service did not take a stream")
    return token


async def _connect(paths: Paths) -> socket.socket:
    """Waits for a lifecycle that is being started, as gRPC calls do."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, os.fspath(paths.streams_socket))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            if loop.time() > deadline:
                raise Unavailable("the engine's lifecycle service is not running") from error
            await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            connection.close()
            raise
        else:
            return connection


@asynccontextmanager
async def upload(request: Request, source: AsyncIterable[bytes]) -> AsyncIterator[pb.Stream]:
    """A stream of what ``source`` gives, moved while the ``with`` block runs.

    A source that fails cancels the block: a tar that ends early must not look complete.
    """
    with ExitStack() as sockets:
        ours, theirs = sockets.enter_context(_pair())
        token = await send_descriptor(request.engine.paths, theirs.fileno())
        theirs.close()
        owner = asyncio.current_task()
        pump = asyncio.create_task(_pump(source, ours, owner))
        try:
            yield pb.Stream(token=token)
        except BaseException:
            # The call is being cancelled. Lifecycle must learn that before it reads an end.
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, sockets.pop_all().close)
            raise
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


async def download(
    request: Request,
    content_type: str,
    call: Callable[[pb.Stream], Awaitable[Any]],
    *,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """Answer with the bytes that ``call`` makes lifecycle write to the stream it is given.

    A failure before the first byte is raised, and so becomes an ordinary error response.
    """
    with _pair() as (ours, theirs):
        token = await send_descriptor(request.engine.paths, theirs.fileno())
        theirs.close()
        rpc = asyncio.ensure_future(_result(call(pb.Stream(token=token))))
        try:
            first = asyncio.ensure_future(_receive(ours))
            await asyncio.wait((first, rpc), return_when=asyncio.FIRST_COMPLETED)
            if rpc.done() and rpc.exception() is not None:
                first.cancel()
                await rpc
            data = await first
            if not data:
                await rpc
            response = await request.stream(content_type, headers=headers)
            while data:
                await response.write(data)
                data = await _receive(ours)
            await rpc
        finally:
            rpc.cancel()
        await response.write_eof()
        return response


async def direct_download(
    request: Request,
    content_type: str,
    call: Callable[[pb.Stream], Awaitable[Any]],
    *,
    headers: dict[str, str] | None = None,
) -> web.StreamResponse:
    """The same, with the client's own connection where that can be: its bytes do not pass here.

    The head goes out first, so ``call`` must not be one that is expected to fail.
    """
    transport = request.http.transport
    if (
        transport is None
        or transport.get_extra_info("ssl_object") is not None
        or request.http.version < HttpVersion11
    ):
        return await download(request, content_type, call, headers=headers)
    response = await request.stream(content_type, headers=headers)
    # A client that sends requests ahead and reads no answers; transports have no event for it.
    while transport.get_write_buffer_size():  # noqa: ASYNC110
        await asyncio.sleep(DRAIN_SECONDS)
    token = await send_descriptor(request.engine.paths, transport.get_extra_info("socket").fileno())
    await call(pb.Stream(token=token, chunked=True))
    await response.write_eof()
    return response


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
        ours.setblocking(False)
        yield ours, theirs


async def _pump(
    source: AsyncIterable[bytes], target: socket.socket, owner: asyncio.Task[Any] | None
) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for data in source:
            try:
                await loop.sock_sendall(target, data)
            except OSError:
                return  # lifecycle has what it wants, or has failed: the call says which
    except Exception:
        # Whatever it is, the source was not read to its end.
        if owner is not None:
            owner.cancel()
        return
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


async def _receive(source: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(source, CHUNK)


async def _result(call: Awaitable[Any]) -> Any:
    return await call
