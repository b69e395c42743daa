"""longshored: a container's streams over a WebSocket, for browsers.

Lifecycle gets one end of a socketpair as if it were a client's connection; the other end is relayed
here, one message for each piece of output. Frames of the multiplexed stream are taken apart: a
WebSocket client sees the bytes of standard output and error alone.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import WSMsgType, web

from compat_api.errors import rpc_errors
from compat_api.request import Request
from compat_api.transfer import send_descriptor
from lifecycle._pb import containers_pb2 as pb

# No client sends it: versions/v1_28.py sets it for those that expect text messages.
TEXT_FRAMES = "text-frames"


async def join_websocket(request: Request, asked: pb.AttachRequest) -> web.StreamResponse:
    client = web.WebSocketResponse(protocols=("docker",), max_msg_size=0)
    await client.prepare(request.http)
    near_end, far_end = socket.socketpair()
    with far_end:
        asked.stream.token = await send_descriptor(request.engine.paths, far_end.fileno())
    reader, writer = await asyncio.open_unix_connection(sock=near_end)
    try:
        with rpc_errors():
            reply = await request.engine.containers.Attach(asked)
        if reply.joined:
            binary = not request.flag(TEXT_FRAMES)
            output = asyncio.create_task(_output(client, reader, tty=reply.tty, binary=binary))
            await _input(client, writer, output)
            await output
    finally:
        writer.close()
    await client.close()
    return client


async def _output(
    client: web.WebSocketResponse, reader: asyncio.StreamReader, *, tty: bool, binary: bool
) -> None:
    while data := (await reader.read(65536) if tty else await read_frame(reader)):
        if binary:
            await client.send_bytes(data)
        else:
            await client.send_str(data.decode(errors="replace"))
    await client.close()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The content of the next frame; nothing at the end."""
    try:
        header = await reader.readexactly(8)
        return await reader.readexactly(int.from_bytes(header[4:], "big"))
    except asyncio.IncompleteReadError:
        return b""


async def _input(
    client: web.WebSocketResponse, writer: asyncio.StreamWriter, output: asyncio.Task[None]
) -> None:
    """Ends when the client closes, or when the output's end has closed the client."""
    async for message in client:
        if message.type is WSMsgType.BINARY:
            writer.write(message.data)
        elif message.type is WSMsgType.TEXT:
            writer.write(message.data.encode())
        try:
            await writer.drain()
        except ConnectionError:
            break
    if not output.done():
        writer.close()
