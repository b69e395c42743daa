"""shim/protocol.py and client.py over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import Unavailable
from shim.client import ShimClient, ZygoteClient
from shim.protocol import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    Connection,
    ConnectionClosed,
    Message,
    ProtocolError,
    ShimError,
    close_all,
)
from tests.descriptors import descriptors

Pair = tuple[Connection, Connection]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.settimeout(20)
        other.settimeout(20)
        yield Connection(one), Connection(other)


def test_message_with_descriptors(pair: Pair) -> None:
    one, other = pair
    read, write = os.pipe()
    one.send({"op": "x", "text": "größer"}, [write])
    os.close(write)
    message, fds = other.recv()
    assert message == {"op": "x", "text": "größer"}
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"through")
    close_all(fds)
    assert os.read(read, 100) == b"through"
    os.close(read)


def test_limits(pair: Pair) -> None:
    one, other = pair
    with pytest.raises(ProtocolError, match="exceeds"):
        one.send({"x": "y" * MAX_MESSAGE})
    one.socket.send(b'"' + b"y" * MAX_MESSAGE + b'"')
    with pytest.raises(ProtocolError, match="exceed"):
        other.recv()
    before = descriptors()
    one.send({}, [0] * (MAX_DESCRIPTORS + 4))
    with pytest.raises(ProtocolError, match="exceed"):
        other.recv()
    assert descriptors() <= before


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b'"x"'])
def test_what_is_not_a_message(pair: Pair, data: bytes) -> None:
    pair[0].socket.send(data)
    with pytest.raises(ProtocolError):
        pair[1].recv()


def test_end_of_the_peer(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(ConnectionClosed):
        pair[1].recv()


def test_call_skips_events_and_raises_errors(pair: Pair) -> None:
    one, other = pair
    other.send({"event": "oom"})
    other.send({"seq": 0, "ok": {"pid": 7}})
    other.send({"seq": 0, "error": {"code": "conflict", "message": "no", "errno": 2}})
    assert one.call("start") == {"pid": 7}
    with pytest.raises(ShimError, match="no") as caught:
        one.call("start")
    assert (caught.value.code, caught.value.errno) == ("conflict", 2)


def test_socket_below_a_deep_directory(tmp_path: Path) -> None:
    from shim.protocol import address

    path = tmp_path / ("d" * 100) / "shim.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with address(path) as short:
            listener.bind(short)
        listener.listen()
        Connection.connect(path).close()


async def test_client_answers_out_of_order_and_events(pair: Pair) -> None:
    events: list[Message] = []
    client = ShimClient(pair[0].socket.dup(), events.append)
    calls = [asyncio.create_task(client.call("stats", {"n": n})) for n in range(3)]
    await asyncio.sleep(0)
    asked = [pair[1].recv()[0] for _ in range(3)]
    assert [each["n"] for each in asked] == [0, 1, 2]
    pair[1].send({"event": "oom"})
    for each in reversed(asked):
        pair[1].send({"seq": each["seq"], "ok": {"n": each["n"]}})
    assert await asyncio.gather(*calls) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert events == [{"event": "oom"}]
    client.close()


async def test_client_whose_shim_dies(pair: Pair) -> None:
    closed: list[bool] = []
    client = ShimClient(pair[0].socket.dup(), None, lambda: closed.append(True))
    call = asyncio.create_task(client.call("pause"))
    await asyncio.sleep(0)
    pair[1].close()
    with pytest.raises(Unavailable):
        await call
    assert closed == [True]
    with pytest.raises(Unavailable):
        await client.call("pause")


async def test_client_waits_for_room(pair: Pair) -> None:
    client = ShimClient(pair[0].socket.dup())
    text = "x" * 100_000
    calls = [asyncio.create_task(client.call("x", {"text": text})) for _ in range(10)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    for _ in range(10):
        message, _ = await loop.run_in_executor(None, pair[1].recv)
        pair[1].send({"seq": message["seq"], "ok": {}})
    assert await asyncio.gather(*calls) == [{}] * 10
    client.close()


async def test_zygote_client(pair: Pair, tmp_path: Path) -> None:
    zygote = ZygoteClient(pair[0].socket.dup())
    forks = [asyncio.create_task(zygote.fork(str(n), tmp_path)) for n in range(2)]
    await asyncio.sleep(0)
    for n in range(2):
        message, fds = pair[1].recv()
        close_all(fds)
        fields = {"id": str(n), "exec_root": str(tmp_path), "subscribed": True}
        assert message == {"op": "fork", **fields}
    pair[1].send({"pid": 5})
    pair[1].send({"error": "fork: no"})
    pid, sock = await forks[0]
    sock.close()
    assert pid == 5
    with pytest.raises(Unavailable, match="fork: no"):
        await forks[1]
    pair[1].close()
    with pytest.raises(Unavailable):
        await zygote.fork("3", tmp_path)
    zygote.close()
