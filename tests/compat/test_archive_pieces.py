"""PUT archive: an upload is the same in whatever chunks it comes."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.engine import BUSYBOX, Engine
from tests.rawhttp import UnixConnection

Runner = Callable[..., str]
FILES = 300


def archive() -> bytes:
    """Long names take headers of several blocks, which lie across the pieces that are read."""
    numbers = random.Random(1)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        for index in range(FILES):
            info = tarfile.TarInfo(f"{'directory' * 14}/{index:03}-{'n' * 200}")
            content = numbers.randbytes(numbers.randint(0, 9000))
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("chunk", [997, 32_768, 100_003])
def test_chunks_of_any_size(engine: Engine, running: Runner, chunk: int) -> None:
    box = running(BUSYBOX, "sleep", "1000")
    data = archive()
    connection = UnixConnection(str(engine.socket), 60)
    pieces = (data[at : at + chunk] for at in range(0, len(data), chunk))
    path = f"/containers/{box}/archive?path={quote('/tmp')}"
    connection.request("PUT", path, pieces, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    path = f"/containers/{box}/archive?path={quote('/tmp/' + 'directory' * 14)}"
    found = engine.api("GET", path).body
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as sent,
        tarfile.open(fileobj=io.BytesIO(found)) as received,
    ):
        for member in sent:
            ours, theirs = received.extractfile(member.name), sent.extractfile(member)
            assert ours is not None
            assert theirs is not None
            assert ours.read() == theirs.read()
