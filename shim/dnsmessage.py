"""Library: DNS messages (RFC 1035, EDNS of RFC 6891), as much of them as the resolver needs.

Questions are parsed, answers with addresses and names are written. What goes to and comes from
other servers is passed on as it is, but for the id. Nothing here trusts the message: every length
is checked, and a compressed name in a question is refused, since no client sends one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

A, PTR, MX, AAAA, OPT = 1, 12, 15, 28, 41
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5
QR, TC, RD, RA = 0x8000, 0x0200, 0x0100, 0x0080
OPCODE_MASK, RCODE_MASK = 0x7800, 0x000F

HEADER_BYTES = 12
SMALLEST_LIMIT = 512  # of a UDP answer to a client without EDNS
LARGEST = 65535
OUR_LIMIT = 4096  # of a UDP message to us, as our answers say
TTL_SECONDS = 600  # Docker's

_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHHIH")  # name as a pointer, type, class, TTL, length
_TO_QUESTION = 0xC000 | HEADER_BYTES
# Root name, OPT, UDP size, extended rcode and version and flags, no data.
_OUR_OPT = b"\0" + struct.pack(">HHIH", OPT, OUR_LIMIT, 0, 0)


class MalformedMessage(Exception):
    """Not a query that can be answered."""


class Query(NamedTuple):
    """All of a message but its id."""

    flags: int
    name: bytes  # as asked for, with dots, without the last one
    kind: int
    end: int  # of the question in the message
    limit: int  # of an answer by UDP
    has_edns: bool


def parse_query(data: bytes) -> Query:
    if len(data) < HEADER_BYTES:
        raise MalformedMessage("too short")
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & (QR | OPCODE_MASK) or questions != 1:
        raise MalformedMessage("not a standard query with one question")
    labels = []
    offset = HEADER_BYTES
    while True:
        length = _byte(data, offset)
        offset += 1
        if length == 0:
            break
        if length > 63 or offset + length > len(data):
            raise MalformedMessage("bad label")
        labels.append(data[offset : offset + length])
        offset += length
    if offset + 4 > len(data):
        raise MalformedMessage("no type and class")
    kind = int.from_bytes(data[offset : offset + 2])
    limit, has_edns = SMALLEST_LIMIT, False
    if additional and not answers and not authorities:
        size = _udp_size(data, offset + 4)
        if size is not None:
            limit, has_edns = max(size, SMALLEST_LIMIT), True
    return Query(flags, b".".join(labels), kind, offset + 4, limit, has_edns)


def _byte(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise MalformedMessage("name without an end")
    return data[offset]


def _udp_size(data: bytes, offset: int) -> int | None:
    """From the OPT record, if it is the first additional one, as every client sends it."""
    if len(data) >= offset + 11 and data[offset] == 0:
        kind, size = struct.unpack_from(">HH", data, offset + 1)
        if kind == OPT:
            return int(size)
    return None


def answer(
    data: bytes, query: Query, records: Sequence[bytes], *, rcode: int = NOERROR, limit: int
) -> bytes:
    """``records`` are the data of records of the query's own type.

    What does not fit into ``limit`` is left out, and the answer says so.
    """
    edns = _OUR_OPT if query.has_edns else b""
    room = limit - query.end - len(edns)
    body = bytearray()
    count = 0
    for record in records:
        size = _RECORD.size + len(record)
        if len(body) + size > room:
            break
        body += _RECORD.pack(_TO_QUESTION, query.kind, IN, TTL_SECONDS, len(record)) + record
        count += 1
    flags = QR | RA | (query.flags & RD) | rcode
    if count < len(records):
        flags |= TC
    header = _HEADER.pack(0, flags, 1, count, 0, 1 if edns else 0)
    return data[:2] + header[2:] + data[HEADER_BYTES : query.end] + body + edns


def refusal(data: bytes, rcode: int) -> bytes | None:
    """An error for a message that could not be parsed; None where there is nobody to tell."""
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        return None
    flags = int.from_bytes(data[2:4])
    return _HEADER.pack(
        int.from_bytes(data[:2]), QR | RA | (flags & (OPCODE_MASK | RD)) | rcode, 0, 0, 0, 0
    )


def encode_name(name: str) -> bytes:
    """Raises ValueError for a name that DNS cannot carry."""
    encoded = bytearray()
    for label in name.rstrip(".").encode().split(b"."):
        if not 0 < len(label) < 64:
            raise ValueError(f"{name!r} has a label of {len(label)} bytes")
        encoded += bytes([len(label)]) + label
    return bytes(encoded + b"\0")


def rcode_of(data: bytes) -> int:
    return data[3] & RCODE_MASK


def is_truncated(data: bytes) -> bool:
    return bool(int.from_bytes(data[2:4]) & TC)


def answers(response: bytes, query: bytes, end: int) -> bool:
    """Whether a message is the response to ``query``, whose question ends at ``end``.

    Letters may change their case on the way, the rest must not.
    """
    return (
        len(response) >= HEADER_BYTES
        and response[:2] == query[:2]
        and bool(response[2] & 0x80)
        and (
            response[HEADER_BYTES:end].lower() == query[HEADER_BYTES:end].lower()
            or (response[4:6] == b"\0\0" and rcode_of(response) != NOERROR)
        )
    )


def address_of_pointer(name: bytes) -> str | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for."""
    labels = name.lower().split(b".")
    match labels:
        case [*digits, b"in-addr", b"arpa"] if len(digits) == 4:
            if all(digit.isdigit() and int(digit) < 256 for digit in digits):
                return ".".join(str(int(digit)) for digit in reversed(digits))
        case [*digits, b"ip6", b"arpa"] if len(digits) == 32:
            packed = b"".join(reversed(digits))
            if len(packed) == 32 and all(byte in b"0123456789abcdef" for byte in packed):
                return packed.decode()
    return None
