"""Library of lifecycle: the start of a container that plugins have a part in.

Plugins are asked to join an endpoint when there is a network namespace to join. It exists in the
middle of what the shim does, so the process that makes it asks here, at a socket of this start's,
and waits. Starts of other containers have none of this.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson

from common.errors import EngineError, InternalError
from common.ids import short
from lifecycle import attachment, live_endpoints, remote_endpoints
from lifecycle.container import Container, describe
from lifecycle.engine import Engine
from lifecycle.remote_calls import FAREWELL_SECONDS
from networking.ports import BoundPort
from shim.protocol import Message

log = logging.getLogger(__name__)

PREFIX = "failed to set up container networking: "


async def attach(
    engine: Engine, container: Container, sockets: list[socket.socket]
) -> dict[str, Any]:
    """As attachment.attach, with what plugins give."""
    try:
        given = await remote_endpoints.attach(engine, container)
    except EngineError as error:
        raise type(error)(f"{PREFIX}{error}") from error
    network = attachment.attach(engine, container, sockets, given)
    try:
        await remote_endpoints.create_endpoints(engine, container)
    except EngineError as error:
        raise type(error)(f"{PREFIX}{error}") from error
    if network["network"] is not None:
        network["network"]["broker"] = str(_socket(engine, container))
    return network


async def run(engine: Engine, container: Container, call: Coroutine[Any, Any, Message]) -> Message:
    """Do ``call``, the shim's start, and answer the process that makes the container meanwhile."""
    work = Broker(engine, container)
    path = _socket(engine, container)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(work.accept, path)
    except BaseException:
        call.close()
        raise
    try:
        answer = await call
        if work.bound or engine.networks.published(container.id):
            await _move_ports(engine, container, work.bound)
        return answer
    except EngineError as error:
        if work.failure is None:
            raise
        raise type(work.failure)(f"{PREFIX}{work.failure}") from error
    finally:
        server.close()
        path.unlink(missing_ok=True)
        await work.finish()


async def _move_ports(engine: Engine, container: Container, bound: list[BoundPort]) -> None:
    """To the way out that there is, now that drivers have told theirs."""
    engine.networks.follow_gateway(container.id)
    try:
        await live_endpoints.tell_shim(engine, container, bound)
    except EngineError as error:
        log.info("%s may have ended already: %s", describe(container), error)
    live_endpoints.note_ports(engine, container, bound)


def _socket(engine: Engine, container: Container) -> Path:
    return engine.paths.sockets / f"{short(container.id)}.sock"


class Broker:
    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine = engine
        self._container = container
        self._work: set[asyncio.Task[None]] = set()
        self.failure: EngineError | None = None
        self.bound: list[BoundPort] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = {}
        try:
            pid = int(orjson.loads(await reader.readline())["pid"])
            self.bound += await remote_endpoints.enter(self._engine, self._container, pid)
        except EngineError as error:
            self.failure = error
            answer = {"error": str(error)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.failure = InternalError(f"unable to set up the network: {error}")
            answer = {"error": str(self.failure)}
        finally:
            writer.write(orjson.dumps(answer) + b"\n")
            writer.close()

    async def finish(self) -> None:
        """The start is over, one way or the other; what a plugin was asked is waited for."""
        if self._work:
            await asyncio.wait(self._work, timeout=FAREWELL_SECONDS)
        for task in list(self._work):
            task.cancel()
        for port in self.bound:
            port.socket.close()
