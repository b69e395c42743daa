"""Library: container output to the lines of Docker's json-file log; no files here.

One object on each line, as the json-file driver writes it and ``docker logs`` of any engine reads
it: ``{"log":"text\\n","stream":"stdout","attrs":{...},"time":"2006-01-02T15:04:05.999999999Z"}``.
A line of 16 KiB or more is several objects, of which only the last one's text ends in a newline;
so is output that ends without a newline (moby daemon/logger/copier.go).

The cost of each line counts: containers write millions of them. So all lines of one read are one
list for one orjson call, and what stands between two of them is put in by one ``join``.
"""

from __future__ import annotations

import codecs
import time

import orjson

PARTIAL_SIZE = 16 * 1024
_NANOSECONDS = 1_000_000_000
_ERROR_HANDLER = "longshore-replace-each-byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


# Go makes one U+FFFD of each invalid byte; Python's "replace" makes one of a cut-off sequence.
codecs.register_error(_ERROR_HANDLER, _replace_each_byte)


class Clock:
    """RFC 3339 time stamps with nanoseconds, UTC, as Go's time.RFC3339Nano prints them."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def stamp(self, nanoseconds: int) -> str:
        second, fraction = divmod(nanoseconds, _NANOSECONDS)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        digits = f".{fraction:09d}".rstrip("0") if fraction else ""
        return f"{self._prefix}{digits}Z"


class Encoder:
    """One stream's reads to log lines; keeps the unfinished line between reads."""

    def __init__(self, stream: str, attrs: dict[str, str] | None = None) -> None:
        encoded_attrs = b',"attrs":' + orjson.dumps(attrs) if attrs else b""
        self._between = b'","stream":' + orjson.dumps(stream) + encoded_attrs + b',"time":"'
        self._carry = b""
        self._clock = Clock()

    def feed(self, data: bytes, nanoseconds: int) -> bytes:
        """The log lines that ``data`` completes, maybe none."""
        if self._carry:
            data = self._carry + data
        end = data.rfind(b"\n")
        if len(data) - end > PARTIAL_SIZE or _has_long_line(data, end):
            return self._feed_long_lines(data, nanoseconds)
        self._carry = data[end + 1 :]
        if end < 0:
            return b""
        return self._encode(_decode(data[:end]).split("\n"), b"\\n", nanoseconds)

    def flush(self, nanoseconds: int) -> bytes:
        """The last line, which lacks its newline, at the end of the stream."""
        rest, self._carry = self._carry, b""
        return self._encode([_decode(rest)], b"", nanoseconds) if rest else b""

    def _feed_long_lines(self, data: bytes, nanoseconds: int) -> bytes:
        pieces = []
        position = 0
        while True:
            newline = data.find(b"\n", position, position + PARTIAL_SIZE)
            if newline >= 0:
                cut = newline + 1
            elif len(data) - position >= PARTIAL_SIZE:
                cut = _character_border(data, position + PARTIAL_SIZE)
            else:
                break
            pieces.append(_decode(data[position:cut]))
            position = cut
        self._carry = data[position:]
        return self._encode(pieces, b"", nanoseconds)

    def _encode(self, texts: list[str], terminator: bytes, nanoseconds: int) -> bytes:
        time_stamp = self._clock.stamp(nanoseconds).encode()
        tail = terminator + self._between + time_stamp + b'"}\n'
        # Between two elements orjson writes `","`, which no element can contain: a quote in a text
        # has a backslash before it. The brackets and the outer quotes go first, since a text that
        # starts with `,` would make a false one with the opening quote.
        # (Splitting and joining is faster than bytes.replace, which searches byte by byte twice.)
        elements = orjson.dumps(texts)[2:-2].split(b'","')
        encoded = (tail + b'{"log":"').join(elements)
        # Go escapes these two separators, and readers that split text into lines need it. A search
        # for one byte is a memchr; most output has no such byte.
        if b"\xe2" in encoded:
            encoded = encoded.replace(b"\xe2\x80\xa8", b"\\u2028")
            encoded = encoded.replace(b"\xe2\x80\xa9", b"\\u2029")
        return b"".join((b'{"log":"', encoded, tail))


def _decode(data: bytes) -> str:
    return data.decode("utf-8", _ERROR_HANDLER)


def _has_long_line(data: bytes, end: int) -> bool:
    """Whether a line in ``data[: end + 1]`` has no newline within PARTIAL_SIZE bytes.

    Looks at the last newline of each window, so that the lines are not looked at one by one.
    """
    position = 0
    while position <= end:
        newline = data.rfind(b"\n", position, position + PARTIAL_SIZE)
        if newline < 0:
            return True
        position = newline + 1
    return False


def _character_border(data: bytes, cut: int) -> int:
    """``cut``, or up to three bytes before it where it would halve a UTF-8 character."""
    for back in (1, 2, 3):
        byte = data[cut - back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return cut - back if length > back else cut
    return cut
