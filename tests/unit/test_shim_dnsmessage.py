"""DNS messages: well-formed ones, short ones and hostile ones."""

from __future__ import annotations

import random
import struct

import pytest

from shim import dnsmessage
from shim.dnsmessage import MalformedMessage

QUESTION = b"\x03Web\x04site\0" + struct.pack(">HH", dnsmessage.A, dnsmessage.IN)
QUERY = b"\x12\x34" + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + QUESTION
EDNS = b"\0" + struct.pack(">HHIH", dnsmessage.OPT, 1232, 0, 0)


def test_query() -> None:
    query = dnsmessage.parse_query(QUERY)
    assert (query.name, query.kind, query.end) == (b"Web.site", dnsmessage.A, len(QUERY))
    assert (query.limit, query.has_edns) == (512, False)


def test_edns_raises_the_limit() -> None:
    query = dnsmessage.parse_query(QUERY[:10] + b"\0\x01" + QUERY[12:] + EDNS)
    assert (query.limit, query.has_edns) == (1232, True)


def test_answer_repeats_the_question() -> None:
    query = dnsmessage.parse_query(QUERY)
    found = dnsmessage.answer(QUERY, query, [b"\x0a\0\0\x01"], limit=512)
    assert found[:2] == QUERY[:2]
    assert found[2:12] == struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
    assert found[12 : query.end] == QUESTION
    assert found[query.end :] == b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 600, 4) + b"\x0a\0\0\x01"
    assert dnsmessage.answers(found, QUERY, query.end)


def test_what_does_not_fit_is_left_out_and_said() -> None:
    query = dnsmessage.parse_query(QUERY)
    found = dnsmessage.answer(QUERY, query, [bytes(4)] * 100, limit=512)
    assert len(found) <= 512
    assert dnsmessage.is_truncated(found)
    whole = dnsmessage.answer(QUERY, query, [bytes(4)] * 100, limit=65535)
    assert not dnsmessage.is_truncated(whole)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        QUERY[:11],
        QUERY[:-1],
        QUERY[:13],
        QUERY[:2] + b"\x81\0" + QUERY[4:],  # a response
        QUERY[:4] + b"\0\x02" + QUERY[6:],  # two questions
        QUERY[:12] + b"\xc0\x0c" + QUERY[-4:],  # a name that points at itself
        QUERY[:12] + b"\x3f" + b"x" * 10,
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        dnsmessage.parse_query(data)


def test_garbage_is_refused_or_parsed() -> None:
    generator = random.Random(1)
    for _ in range(3000):
        data = bytearray(QUERY + EDNS)
        for _ in range(generator.randrange(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        message = bytes(data[: generator.randrange(len(data) + 1)])
        try:
            query = dnsmessage.parse_query(message)
        except MalformedMessage:
            dnsmessage.refusal(message, dnsmessage.FORMERR)
            continue
        assert query.end <= len(message)
        dnsmessage.address_of_pointer(query.name)
        assert len(dnsmessage.answer(message, query, [bytes(4)], limit=512)) <= 512


def test_refusal_answers_no_responses() -> None:
    assert dnsmessage.refusal(QUERY[:2] + b"\x81\0" + QUERY[4:], dnsmessage.FORMERR) is None
    assert dnsmessage.refusal(b"\x12", dnsmessage.FORMERR) is None
    found = dnsmessage.refusal(QUERY, dnsmessage.FORMERR)
    assert found is not None
    assert dnsmessage.rcode_of(found) == dnsmessage.FORMERR


def test_forged_responses_do_not_count() -> None:
    query = dnsmessage.parse_query(QUERY)
    good = dnsmessage.answer(QUERY, query, [bytes(4)], limit=512)
    assert not dnsmessage.answers(b"\0\0" + good[2:], QUERY, query.end)
    assert not dnsmessage.answers(good[:13] + b"x" + good[14:], QUERY, query.end)
    assert not dnsmessage.answers(QUERY, QUERY, query.end)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"4.3.2.1.in-addr.arpa", "1.2.3.4"),
        (b"4.3.2.999.in-addr.arpa", None),
        (b"3.2.1.in-addr.arpa", None),
        (b"1." + b"0." * 30 + b"f.ip6.arpa", "f" + "0" * 30 + "1"),
        (b"g." + b"0." * 31 + b"ip6.arpa", None),
        (b"example.test", None),
    ],
)
def test_pointers(name: bytes, expected: str | None) -> None:
    assert dnsmessage.address_of_pointer(name) == expected


def test_names() -> None:
    assert dnsmessage.encode_name("web.site") == b"\x03web\x04site\0"
    with pytest.raises(ValueError, match="label"):
        dnsmessage.encode_name("a" * 64)
