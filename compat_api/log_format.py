"""Part of longshored: lines of a json-file log to what clients of /logs get; pure functions.

``compat_api.log_reader`` calls it with blocks of whole lines. Millions of lines pass through here,
so the unit of work is a run: the lines of one write of the shim, which share everything but their
text. A run is split and framed by a few calls into C; only lines that do not form runs are looked
at one by one, and only lines that are not JSON are repaired.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import orjson

from common.times import parse_timestamp, rfc3339_nano

_STREAM_NUMBERS = {"stdout": 1, "stderr": 2}
_LOG_KEY = b'{"log":"'
# No text can contain it: a quote in a text has a backslash before it.
_STREAM_KEY = b'","stream":"'
# Shorter runs cost more as runs than one by one.
_SHORTEST_RUN = 8
_FIXED_LENGTH = len("2006-01-02T15:04:05.000000000Z")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a /logs request."""

    stdout: bool = True
    stderr: bool = True
    timestamps: bool = False
    details: bool = False
    follow: bool = False
    tail: int | None = None  # entries from the end; None: all
    since: int = 0  # ns; 0: from the start
    until: int = 0  # ns; 0: to the end


class _Heads(dict[int, bytes]):
    """What stands before a text in a frame of one stream, by the text's length."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __missing__(self, length: int) -> bytes:
        head = self[length] = struct.pack(">BxxxI", self._number, length)
        return head


class _RunHeads(dict[int, bytes]):
    """Likewise for texts that come without their newlines: that of the text before goes in front of
    the header, and ``prefix`` behind it."""

    def __init__(self, number: int, prefix: bytes) -> None:
        super().__init__()
        self._number = number
        self._prefix = prefix

    def __missing__(self, length: int) -> bytes:
        whole = len(self._prefix) + length + 1
        head = self[length] = b"\n" + struct.pack(">BxxxI", self._number, whole) + self._prefix
        return head


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive lines that share everything but their text."""

    texts: list[bytes]
    escaped: bool  # the texts are as they stand in JSON; else each lacks its final newline
    tail: bytes  # from the text's closing quote on
    end: int  # where the next line starts


class Renderer:
    """Turns blocks of whole log lines into the bytes of the answer, for one request."""

    def __init__(self, options: LogOptions, *, framed: bool) -> None:
        self.finished = False  # a line was later than ``until``: there is nothing more to come
        self._framed = framed
        self._details = options.details
        self._timestamps = options.timestamps
        self._streams = {
            name: number
            for name, number in _STREAM_NUMBERS.items()
            if (options.stdout if name == "stdout" else options.stderr)
        }
        self._since = fixed_time(rfc3339_nano(options.since)) if options.since else ""
        self._until = fixed_time(rfc3339_nano(options.until)) if options.until else ""
        self._prefixed = options.details or options.timestamps
        self._timed = bool(options.since or options.until or options.timestamps)
        self._heads = {number: _Heads(number) for number in (1, 2)}
        self._run_heads = {number: _RunHeads(number, b"") for number in (1, 2)}

    def render(self, lines: bytes) -> bytes:
        """``lines`` is any number of whole lines, the last one with its newline."""
        parts: list[bytes] = []
        position = 0
        while position < len(lines) and not self.finished:
            run = _take_run(lines, position)
            if run is None:
                self._render_each(lines[position:], parts)
                break
            self._render_run(run, parts)
            position = run.end
        return b"".join(parts)

    def _render_run(self, run: _Run, parts: list[bytes]) -> None:
        record: dict[str, Any] = orjson.loads(_LOG_KEY + run.tail)
        prefix = self._prefix(record)
        number = self._streams.get(record["stream"])
        if prefix is None or number is None:
            return
        if run.escaped:
            for text in orjson.loads(b'["' + b'","'.join(run.texts) + b'"]'):
                self._put(number, prefix + text.encode(), parts)
        elif self._framed:
            heads = _RunHeads(number, prefix) if prefix else self._run_heads[number]
            framed = [b""] * (2 * len(run.texts))
            framed[::2] = map(heads.__getitem__, map(len, run.texts))
            framed[1::2] = run.texts
            framed[0] = framed[0][1:]
            parts += framed
            parts.append(b"\n")
        else:
            parts += (prefix, (b"\n" + prefix).join(run.texts), b"\n")

    def _render_each(self, lines: bytes, parts: list[bytes]) -> None:
        streams, timed, prefixed = self._streams, self._timed, self._prefixed
        for record in parse_lines(lines):
            number = streams.get(record["stream"])
            if timed or prefixed:
                prefix = self._prefix(record)
                if self.finished:
                    return
                if prefix is None or number is None:
                    continue
                self._put(number, prefix + record["log"].encode(), parts)
            elif number is not None:
                self._put(number, record["log"].encode(), parts)

    def _put(self, number: int, text: bytes, parts: list[bytes]) -> None:
        if self._framed:
            parts.append(self._heads[number][len(text)])
        parts.append(text)

    def _prefix(self, record: dict[str, Any]) -> bytes | None:
        """What stands before the text; None for a line outside of the times asked for."""
        time = fixed_time(record["time"]) if self._timed else ""
        if time < self._since:
            return None
        if self._until and time > self._until:
            self.finished = True
            return None
        prefix = f"{time} " if self._timestamps else ""
        if self._details:
            prefix += f"{details(record.get('attrs'))} "
        return prefix.encode()


def details(attrs: dict[str, str] | None) -> str:
    """As Docker: sorted, URL-escaped, joined by commas."""
    pairs = sorted((attrs or {}).items())
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs)


def fixed_time(text: str) -> str:
    """An RFC 3339 time in UTC with nine digits of fraction, so that texts compare as times do."""
    if len(text) == _FIXED_LENGTH and text.endswith("Z"):
        return text
    if not text.endswith("Z"):
        text = rfc3339_nano(parse_timestamp(text))
    whole, _, fraction = text[:-1].partition(".")
    return f"{whole}.{fraction:0<9}Z"


def parse_lines(lines: bytes) -> list[dict[str, Any]]:
    """The records of whole lines; what a crash or a full disk has spoilt is left out."""
    array = b"[%b]" % lines.rstrip(b"\n").replace(b"\n", b",")
    try:
        records: list[dict[str, Any]] = orjson.loads(array)
        if all(map(_is_record, records)):
            return records
    except orjson.JSONDecodeError:
        pass
    salvaged = map(_salvage, lines.split(b"\n"))
    return [record for record in salvaged if record is not None]


def _salvage(line: bytes) -> dict[str, Any] | None:
    """The record of one line; of a torn one with the next behind it, the next."""
    for start in (0, line.rfind(_LOG_KEY)):
        try:
            record: object = orjson.loads(line[start:]) if start >= 0 else None
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and _is_record(record):
            return record
    return None


def _is_record(record: object) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("log"), str)
        and isinstance(record.get("time"), str)
        and "stream" in record
    )


def _take_run(lines: bytes, start: int) -> _Run | None:
    """The lines from ``start`` on that share their ends; None if they are few or look odd."""
    end_of_line = lines.find(b"\n", start) + 1
    text_end = lines.find(_STREAM_KEY, start, end_of_line)
    if text_end < 0 or not lines.startswith(_LOG_KEY, start):
        return None
    tail = lines[text_end:end_of_line]
    end = lines.rfind(tail) + len(tail)
    count = lines.count(b"\n", start, end)
    if count < _SHORTEST_RUN:
        return None
    ending = b"\\n" + tail
    # One backslash for each line, and each line's at its end: nothing else is escaped.
    escaped = lines.count(b"\\", start, end) != count or not lines.endswith(ending, start, end)
    if escaped:
        ending = tail
    texts = lines[start + len(_LOG_KEY) : end - len(ending)].split(ending + _LOG_KEY)
    if len(texts) != count:
        return None
    return _Run(texts, escaped, tail, end)
