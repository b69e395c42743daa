"""Worker: a client's compressed tar on its way into a container, decompressed.

It goes from the first descriptor to the second, which is closed at its end. The process that
creates the files knows no compression: see shim/jobs/.
"""

from __future__ import annotations

from typing import Any

from common.errors import InvalidArgument
from images import compression
from images.operation import Operation
from images.streams import ClientStream, in_thread


class Decompress:
    async def run(self, operation: Operation) -> dict[str, Any]:
        source, target = ClientStream(operation.fds[0]), ClientStream(operation.fds[1])
        try:
            await in_thread(source, lambda: _pass_on(source, target))
        finally:
            target.close()
        return {}


def _pass_on(source: ClientStream, target: ClientStream) -> None:
    """In a thread."""
    try:
        for piece in compression.decompressed(compression.Source(source.read)):
            target.write(piece)
    except compression.CorruptStream as e:
        raise InvalidArgument(str(e)) from e
