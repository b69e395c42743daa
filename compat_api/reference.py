"""longshored: image names and platforms as clients send them; pure functions.

Lifecycle judges names; what is here puts the pieces together by Docker's rules.
"""

from __future__ import annotations

import re

import orjson

from common.errors import InvalidArgument

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


def join(name: str, tag: str) -> str:
    """``name`` with ``tag``, which may be a digest, in place of a tag or digest of its own."""
    if _ID.fullmatch(name):
        raise InvalidArgument(
            f"invalid repository name ({name}), cannot specify 64-byte hexadecimal strings"
        )
    if not tag:
        return name
    if _DIGEST.fullmatch(tag):
        return f"{bare(name)}@{tag}"
    return f"{bare(name)}:{check_tag(tag)}"


def bare(name: str) -> str:
    """``name`` without tag and digest."""
    name = name.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def is_bare(name: str) -> bool:
    return bare(name) == name


def check_tag(tag: str) -> str:
    if tag and not _TAG.fullmatch(tag):
        raise InvalidArgument("invalid tag format")
    return tag


def one_platform(texts: list[str]) -> str:
    if len(texts) > 1:
        raise InvalidArgument("multiple platform parameters not supported")
    return parse_platform(texts[0]) if texts else ""


def parse_platform(text: str) -> str:
    """The JSON object in which newer endpoints get a platform, as ``os/arch[/variant]``."""
    if not text:
        return ""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidArgument(
            f"failed to parse platform: invalid character {text[0]!r} "
            "looking for beginning of value"
        ) from None
    if not isinstance(value, dict):
        raise InvalidArgument("failed to parse platform: not an object")
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts):
        raise InvalidArgument("failed to parse platform: not a string")
    if not any(parts[:2]) and (parts[2] or value.get("os.version") or value.get("os.features")):
        raise InvalidArgument(
            "optional platform fields provided, but OS and Architecture are missing"
        )
    if not parts[0] or not parts[1]:
        raise InvalidArgument("both OS and Architecture must be provided")
    return "/".join(filter(None, parts))
