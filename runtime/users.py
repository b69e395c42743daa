"""Library: who "user[:group]" is, by the container's own /etc/passwd and /etc/group.

Run on the container's child side, with its root file system in reach through ``Root``. The files
are the image's, so hostile: they are read here and not by the C library, which would load modules
that the image's nsswitch.conf names. The errors are Docker's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.errors import RuntimeFailure
from runtime.rootpath import Root
from runtime.spec import User

LIMIT = 1 << 20
MAX_ID = (1 << 31) - 1
# int() also takes "+5", "1_000" and the digits of all scripts.
NUMBER = re.compile(rb"[0-9]+")


@dataclass(frozen=True, slots=True)
class Identity:
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, the primary group first
    home: str


def resolve(
    user: User, root: Root, *, limit: int = LIMIT, longer: Exception | None = None
) -> Identity:
    """Files of more than ``limit`` bytes are none, or raise ``longer``."""
    passwd = root.read_file("etc/passwd", limit, longer=longer) or b""
    additional: list[int] = []
    if user.username is None:
        uid, gid = user.uid, user.gid
    else:
        groups = root.read_file("etc/group", limit, longer=longer) or b""
        uid, gid, additional = _named(user.username, passwd, groups)
        additional += [_group(name, groups) for name in user.additional_groups]
    # With the primary group, or a process could shed a denial to it (CVE-2022-36109).
    everything = dict.fromkeys((gid, *additional, *user.additional_gids))
    home = next((row[5] for row in _users(passwd) if _number(row[2]) == uid), b"") or b"/"
    return Identity(uid, gid, tuple(everything), home.decode("utf-8", "surrogateescape"))


Row = list[bytes]


def _users(passwd: bytes) -> Iterator[Row]:
    return _records(passwd, 7)


def _records(content: bytes, width: int) -> Iterator[Row]:
    """One after the other: most who look need the first."""
    for line in content.splitlines():
        row = line.strip().split(b":")
        if line.strip() and not line.startswith(b"#"):
            yield row + [b""] * (width - len(row))


def _number(text: bytes) -> int | None:
    if not NUMBER.fullmatch(text):
        return None
    # A number is never looked up as a name, even one that no kernel would take (CVE-2024-40635).
    return int(text) if len(text) < 20 else MAX_ID + 1


def _checked(value: int) -> int:
    if value > MAX_ID:
        raise RuntimeFailure("user", f"uids and gids must be in range 0-{MAX_ID}")
    return value


def _named(text: str, passwd: bytes, groups: bytes) -> tuple[int, int, list[int]]:
    name, _, group_name = (part.encode() for part in text.partition(":"))
    if (uid := _number(name or b"0")) is not None:
        row = next((row for row in _users(passwd) if _number(row[2]) == _checked(uid)), None)
    else:
        row = next((row for row in _users(passwd) if row[0] == name), None)
        if row is None:
            raise RuntimeFailure(
                "user", f"unable to find user {name.decode()}: no matching entries in passwd file"
            )
        uid = _checked(_number(row[2]) or 0)
    if group_name:
        return uid, _group(group_name.decode(), groups), []
    gid = _checked((_number(row[3]) or 0) if row else 0)
    member = row[0] if row else None
    listed = [
        number
        for each in _records(groups, 4)
        if member and member in each[3].split(b",") and (number := _number(each[2])) is not None
    ]
    return uid, gid, [_checked(number) for number in listed]


def _group(text: str, groups: bytes) -> int:
    name = text.encode()
    if (number := _number(name)) is not None:
        return _checked(number)
    for row in _records(groups, 4):
        if row[0] == name and (number := _number(row[2])) is not None:
            return _checked(number)
    raise RuntimeFailure("user", f"unable to find group {text}: no matching entries in group file")
