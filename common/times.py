"""Library: times as clients write them, and durations as Go writes them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from common.errors import InvalidArgument

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNIX = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_ISO = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:T(\d{2})(?::(\d{2})(?::(\d{2})(\.\d{1,9})?)?)?)?(Z|[+-]\d{2}:\d{2})?",
    re.ASCII,
)


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1h30m`` or ``1.5s``; raises ValueError."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(round(float(number) * _UNITS[unit]) for number, unit in parts)


def parse_timestamp(text: str) -> int:
    """Nanoseconds since 1970 of what Docker takes for a time.

    Unix seconds with a fraction, RFC 3339 or a part of it, or a duration before now (moby
    daemon/internal/timestamp).
    """
    if _UNIX.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)
    match = _ISO.fullmatch(text)
    if match:
        return _iso(match)
    try:
        return time.time_ns() - parse_duration(text)
    except ValueError as error:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from error


def _iso(match: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z") else zone
    stamp = f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{offset}"
    try:
        seconds = int(datetime.fromisoformat(stamp).timestamp())
    except ValueError as error:
        raise InvalidArgument(f"parsing time {match.group()!r}: {error}") from error
    return seconds * 1_000_000_000 + int((fraction or ".0")[1:].ljust(9, "0"))


def rfc3339_nano(nanoseconds: int) -> str:
    """As Go's time.RFC3339Nano in UTC: trailing zeros of the fraction are dropped; 0 is year 1."""
    if not nanoseconds:
        return "0001-01-01T00:00:00Z"
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{stamp}.{digits}Z" if digits else f"{stamp}Z"
