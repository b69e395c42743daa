"""longshored: durations as in the status of a list; pure functions."""

from __future__ import annotations

ZERO_TIME = "0001-01-01T00:00:00Z"


def human_duration(nanoseconds: int) -> str:
    """As in the status of a list: "7 seconds", "About an hour", "3 weeks"."""
    seconds = nanoseconds // 1_000_000_000
    minutes = seconds // 60
    hours = round_half_up(nanoseconds, 3_600_000_000_000)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return f"{seconds} second{'' if seconds == 1 else 's'}"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, name in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if hours < limit * 24:
            return f"{hours // 24 // unit} {name}"
    return f"{seconds // 3600 // 24 // 365} years"


def round_half_up(value: int, unit: int) -> int:
    return (value + unit // 2) // unit
