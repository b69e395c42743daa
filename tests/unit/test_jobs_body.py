"""The job's reading of an upload: HTTP's chunks, however they are cut."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from common.tar import CorruptArchive
from shim.jobs.body import unchunked


def pieces(data: bytes, generator: random.Random, longest: int) -> Iterator[memoryview]:
    """One buffer over and over, as the job has it."""
    buffer = memoryview(bytearray(longest))
    while data:
        count = generator.randint(1, longest)
        part, data = data[:count], data[count:]
        buffer[: len(part)] = part
        yield buffer[: len(part)]


def chunked(content: bytes, generator: random.Random, longest: int) -> bytes:
    parts = []
    while content:
        count = generator.randint(1, longest)
        part, content = content[:count], content[count:]
        parts.append(b"%x%s\r\n%s\r\n" % (len(part), generator.choice((b"", b";a=b")), part))
    return b"".join(parts)


def read(data: bytes, generator: random.Random, longest: int = 40) -> bytes:
    return b"".join(map(bytes, unchunked(pieces(data, generator, longest))))


@pytest.mark.parametrize("seed", range(20))
def test_content_however_it_is_cut(seed: int) -> None:
    generator = random.Random(seed)
    content = generator.randbytes(2000)
    trailers = generator.choice((b"", b"X: y\r\nZ: 1\r\n"))
    data = chunked(content, generator, longest=300) + b"0\r\n" + trailers + b"\r\n"
    longest = generator.choice((1, 3, 100, 5000))
    assert read(data + b"behind it", generator, longest) == content


@pytest.mark.parametrize("longest", [*range(1, 25), 200])
def test_chunks_of_one_size(longest: int) -> None:
    content = b"\r\n6\r\n6" * 5  # which looks like what is between them
    parts = (content[at : at + 6] for at in range(0, len(content), 6))
    data = b"".join(b"6\r\n%b\r\n" % part for part in parts) + b"0\r\n\r\n"
    assert read(data + b"0\r\n6\r\nbehind", random.Random(longest), longest) == content


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"5\r\nhello", "unexpected EOF"),
        (b"5\r\nhello\r\n", "unexpected EOF"),
        (b"0\r\n", "unexpected EOF"),
        (b"5\r\nhelloX\r\n0\r\n\r\n", "corrupt chunk"),
        (b"5\r\nhello\r\n5\r\nhelloX\r\n0\r\n\r\n", "corrupt chunk"),
        (b"5\r\nhello\r\n5\r\nhello\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "corrupt chunk"),
        (b"\r\n", "corrupt chunk"),
        (b"-5\r\nhello\r\n", "corrupt chunk"),
        (b"5_0\r\n", "corrupt chunk"),
        (b"1" * 17 + b"\r\n", "corrupt chunk"),
        (b"5;" + b"x" * 5000, "corrupt chunk"),
    ],
)
def test_what_is_no_chunk(data: bytes, text: str) -> None:
    for seed in range(50):  # cut in many places
        with pytest.raises(CorruptArchive, match=text):
            read(data, random.Random(seed))
