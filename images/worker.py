"""longshore-images, the worker process: transfers, decompression and unpacking.

``images/client.py`` executes it (``python -m images.worker <fd>``) when lifecycle first needs it
and ends it, by closing the socketpair, when it has been idle. It writes content and layers, never
metadata; an operation is over when its answer is sent, and what it brought counts from lifecycle's
transaction on.

    → {"id": n, "op": name, "arguments": {...}} + descriptors
    → {"id": n, "cancel": true}
    → {"id": n, "granted": lease number}
    ← {"id": n, "progress": {members of Progress}}
    ← {"id": n, "lease": number, "layers": [chain id], "blobs": [digest]}
    ← {"id": n, "result": {...}}  or  {"id": n, "error": {"code", "message"}}     the last one
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from common.errors import EngineError, InternalError
from images import remote
from images.archive_load import Load
from images.archive_save import Save
from images.channel import Channel, Message
from images.commit import Commit
from images.confinement import PR_SET_PDEATHSIG, prctl
from images.content import ContentStore
from images.decompress import Decompress
from images.import_ import Import
from images.layers import Layers
from images.operation import Operation
from images.pull import Pull
from images.push import Push
from images.snapshots import Snapshots
from images.transfer import Transfers
from images.unpackers import Unpackers

log = logging.getLogger("longshore.images")

Handler = Callable[[Operation], Awaitable[dict[str, Any]]]


class Worker:
    def __init__(self, sock: socket.socket, data_root: Path) -> None:
        self._content = ContentStore(data_root / "content")
        self._unpackers = Unpackers(self._content.occupy())
        self._unpackers.start()  # while the first operation still waits for the registry
        snapshots = Snapshots(data_root / "snapshots")
        # lifecycle starts a worker only when no other is at work.
        for partial in snapshots.unpacking():
            snapshots.discard(partial)
        self._content.discard_ingests()
        layers = Layers(self._content, snapshots, self._unpackers)
        self._handlers: dict[str, Handler] = {
            "pull": Pull(self._content, layers, Transfers(self._content)).run,
            "push": Push(self._content).run,
            "save": Save(self._content).run,
            "commit": Commit(self._content, snapshots, layers).run,
            "decompress": Decompress().run,
            "load": Load(self._content, layers).run,
            "import": Import(self._content, layers).run,
            "login": remote.login,
            "tags": remote.tags,
            "inspect": remote.inspect,
        }
        self._operations: dict[int, Operation] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closed = asyncio.Event()
        self._channel = Channel(sock, self._message, self._closed.set)

    async def serve(self) -> None:
        """Until lifecycle closes the channel, or dies."""
        await self._closed.wait()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._unpackers.close()

    def _message(self, message: Message, fds: list[int]) -> None:
        number = message["id"]
        if "op" in message:
            operation = Operation(number, message, fds, self._channel.send)
            self._operations[number] = operation
            task = asyncio.ensure_future(self._run(operation, self._handlers[message["op"]]))
            self._tasks[number] = task
        elif "granted" in message and number in self._operations:
            self._operations[number].lease_granted(message["granted"])
        elif "cancel" in message and number in self._tasks:
            self._tasks[number].cancel()

    async def _run(self, operation: Operation, handler: Handler) -> None:
        try:
            answer: Message = {"result": await handler(operation)}
        except asyncio.CancelledError:
            answer = _error(InternalError("context canceled"))
        except EngineError as e:
            answer = _error(e)
        except OSError as e:
            answer = _error(InternalError(str(e)))
        except Exception as e:  # the top of an operation: the others go on
            log.exception("operation %d failed", operation.number)
            answer = _error(InternalError(f"{type(e).__name__}: {e}"))
        finally:
            operation.close()
            del self._operations[operation.number]
            del self._tasks[operation.number]
        self._channel.send({"id": operation.number, **answer})


def _error(error: EngineError) -> Message:
    return {"error": {"code": error.code, "message": str(error)}}


async def _serve(sock: socket.socket, data_root: Path) -> None:
    await Worker(sock, data_root).serve()


def main() -> None:
    # Nothing that it does is of use without lifecycle, whose successor is to find the disk at rest.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    setproctitle("longshore-images")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # lifecycle decides when this ends
    os.umask(0o077)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    gc.freeze()
    asyncio.run(_serve(sock, Path(sys.argv[2])))


if __name__ == "__main__":
    main()
