"""longshored: lifecycle's Progress messages as the lines that Docker's clients print.

The text in ``progress`` is for clients that show it as it is; others draw their own from
``progressDetail``. Both are what dockerd sends to a client that is no terminal of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

import orjson

from compat_api.streams import JsonStream
from lifecycle._pb import types_pb2 as pb

BAR_WIDTH = 50
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
# Lines with an id that are about the whole operation, and so have no counts.
_MESSAGES = ("Pulling from ",)


def line(progress: pb.Progress) -> dict[str, Any]:
    """One line of a pull, push, load or import."""
    if progress.stream:
        return {"stream": progress.stream}
    if progress.aux:
        return {"progressDetail": {}, "aux": orjson.loads(progress.aux)}
    result: dict[str, Any] = {"status": progress.status}
    if progress.id and not progress.status.startswith(_MESSAGES):
        result["progressDetail"] = detail(progress)
        text = bar(progress.current, progress.total, hide_counts=progress.hide_counts)
        if text:
            result["progress"] = text
    if progress.id:
        result["id"] = progress.id
    return result


def detail(progress: pb.Progress) -> dict[str, Any]:
    counts: dict[str, Any] = {"current": progress.current, "total": progress.total}
    found = {key: value for key, value in counts.items() if value}
    if found and progress.hide_counts:
        found["hidecounts"] = True
    return found


def bar(current: int, total: int, *, hide_counts: bool = False) -> str:
    """``[=====>      ]  1.2MB/3.4MB``; without a total only the count."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    done = min(int(current / total * 100) // 2, BAR_WIDTH)
    drawn = f"[{'=' * done}>{' ' * (BAR_WIDTH - done)}] "
    if hide_counts:
        return drawn
    counts = f"{human_size(current):>8}"
    # A count past the total shows that the total was a guess.
    return drawn + (counts if current > total else f"{counts}/{human_size(total)}")


def human_size(size: float) -> str:
    """Four significant digits and a decimal unit."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"


async def send_all(stream: JsonStream, messages: AsyncIterable[pb.Progress]) -> None:
    async for message in messages:
        await stream.send(line(message))
