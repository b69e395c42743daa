"""shim/logformat.py: what stands in the log equals what the container wrote."""

from __future__ import annotations

import json
import random

import pytest

from shim.logformat import PARTIAL_SIZE, Clock, Encoder

NOW = 1_700_000_000_123_456_000
STAMP = "2023-11-14T22:13:20.123456Z"

HOSTILE = [
    b"",
    b",",
    b'","',
    b'"',
    b'","log":"',
    b'{"log":"x\\n","stream":"stdout","time":"t"}',
    b"\\",
    b"\\n",
    b'\\"',
    b'\\","',
    b'["',
    b'"]',
    b"\x00\x01\x1b[31mred\x1b[0m\x7f",
    b"tab\tcr\rff\x0c",
    "größer 漢字 🚢".encode(),
    "\u2028line\u2029para".encode(),
    b"<a href='x'>&amp;</a>",
    b"\xff\xfe",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"a\xe6\xbc" + b'","' + b"\xa2",
]


def go_decode(data: bytes) -> str:
    """Go's rule: U+FFFD for each byte that is not part of a valid sequence."""
    text, position = "", 0
    while position < len(data):
        for length in (1, 2, 3, 4):
            try:
                text += data[position : position + length].decode()
            except UnicodeDecodeError:
                continue
            position += length
            break
        else:
            text += "\ufffd"
            position += 1
    return text


def parse(encoded: bytes) -> list[dict[str, object]]:
    assert encoded == b"" or encoded.endswith(b"\n")
    return [json.loads(line) for line in encoded.split(b"\n")[:-1]]


def texts(encoded: bytes) -> list[object]:
    return [entry["log"] for entry in parse(encoded)]


def test_hostile_lines_come_out_as_they_went_in() -> None:
    encoded = Encoder("stdout").feed(b"".join(line + b"\n" for line in HOSTILE), NOW)
    assert parse(encoded) == [
        {"log": go_decode(line) + "\n", "stream": "stdout", "time": STAMP} for line in HOSTILE
    ]


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_line_alone(line: bytes) -> None:
    encoder = Encoder("stderr")
    assert texts(encoder.feed(line + b"\n", NOW)) == [go_decode(line) + "\n"]
    assert encoder.flush(NOW) == b""


def test_line_separators_are_escaped() -> None:
    encoded = Encoder("stdout").feed("a\u2028b\u2029c\n".encode(), NOW)
    assert b"a\\u2028b\\u2029c" in encoded
    assert len(encoded.decode().splitlines()) == 1


def test_attrs_stand_on_each_line_before_the_time() -> None:
    encoded = Encoder("stdout", {"tag": 'a"b', "env": ","}).feed(b"1\n2\n", NOW)
    assert [entry["attrs"] for entry in parse(encoded)] == [{"tag": 'a"b', "env": ","}] * 2
    assert encoded.startswith(b'{"log":"1\\n","stream":"stdout","attrs":{')


def test_unfinished_line_waits_for_its_end() -> None:
    encoder = Encoder("stdout")
    assert encoder.feed(b"ab", NOW) == b""
    assert texts(encoder.feed(b"c\nde", NOW)) == ["abc\n"]
    assert encoder.feed(b"f", NOW) == b""
    assert texts(encoder.flush(NOW)) == ["def"]
    assert encoder.flush(NOW) == b""


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (PARTIAL_SIZE - 1, [PARTIAL_SIZE]),
        (PARTIAL_SIZE, [PARTIAL_SIZE, 1]),
        (PARTIAL_SIZE + 1, [PARTIAL_SIZE, 2]),
        (3 * PARTIAL_SIZE + 5, [PARTIAL_SIZE] * 3 + [6]),
    ],
)
def test_long_line_is_split(length: int, expected: list[int]) -> None:
    encoder = Encoder("stdout")
    pieces = [str(text) for text in texts(encoder.feed(b"x" * length + b"\nend\n", NOW))]
    assert [len(piece) for piece in pieces] == [*expected, 4]
    assert "".join(pieces) == "x" * length + "\nend\n"


def test_split_does_not_halve_a_character() -> None:
    line = "x" + "漢" * PARTIAL_SIZE
    encoder = Encoder("stdout")
    pieces = [str(text) for text in texts(encoder.feed(line.encode() + b"\n", NOW))]
    assert "".join(pieces) == line + "\n"
    assert len(pieces) == 4


def test_any_cutting_into_reads_gives_the_same_text() -> None:
    source = random.Random(7)
    data = b"".join(
        source.choice(HOSTILE) * source.choice([1, 1, 1, 900])
        + source.choice([b"\n", b"", b"\n\n"])
        for _ in range(600)
    )
    encoder, position, pieces = Encoder("stdout"), 0, []
    while position < len(data):
        size = source.choice([1, 7, 100, 5000, 65536])
        pieces += texts(encoder.feed(data[position : position + size], NOW))
        position += size
    pieces += texts(encoder.flush(NOW))
    assert all(len(str(piece).encode()) <= 3 * PARTIAL_SIZE + 1 for piece in pieces)
    # Invalid bytes may be cut from one another; each is still one U+FFFD.
    assert "".join(map(str, pieces)) == go_decode(data)


def test_clock_trims_zeros_as_go_does() -> None:
    clock = Clock()
    assert clock.stamp(NOW) == STAMP
    assert clock.stamp(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert clock.stamp(1_700_000_000_100_000_000) == "2023-11-14T22:13:20.1Z"
    assert clock.stamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
