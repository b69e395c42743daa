"""Library of lifecycle: the keys with which a client leaves a container without ending it."""

from __future__ import annotations

from common.errors import InvalidArgument

DEFAULT_KEYS = (16, 17)  # ctrl-p, ctrl-q

_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> list[int]:
    """``ctrl-p,ctrl-q`` or single characters, by commas; empty: the default."""
    if not text:
        return list(DEFAULT_KEYS)
    return [_key(part, text) for part in text.split(",")]


def _key(part: str, text: str) -> int:
    if len(part) == 1:
        return ord(part) & 0xFF
    name = part.removeprefix("ctrl-")
    if name != part and len(name) == 1:
        if "a" <= name <= "z":
            return ord(name) - ord("a") + 1
        if name in _CONTROL:
            return _CONTROL[name]
    raise InvalidArgument(f"Invalid detach keys ({text}) provided: Unknown character: '{part}'")
