"""Library of lifecycle: the setting of ``--userns-remap``, read as dockerd reads it.

From the host's users and from /etc/subuid and /etc/subgid, at lifecycle's start and only where the
option is given.
"""

from __future__ import annotations

import grp
import logging
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common.errors import InvalidArgument
from lifecycle.remap import Remap
from runtime import namespaces
from runtime.spec import IDMapping

DEFAULT, DEFAULT_USER = "default", "dockremap"
RANGE_START, RANGE_SIZE = 100_000, 65_536
MAX_NUMBER = (1 << 31) - 1

log = logging.getLogger(__name__)


def open_remap(setting: str, etc: Path = Path("/etc")) -> Remap | None:
    """Lifecycle's, while it has one thread; None where root is to stay root."""
    found = resolve(setting, etc)
    if found is None:
        return None
    try:
        fd = namespaces.mapped_userns(found.uids, found.gids)
    except Exception as error:
        raise InvalidArgument(f"--userns-remap {setting}: no user namespace: {error}") from error
    return Remap(found.uids, found.gids, fd)


def resolve(setting: str, etc: Path) -> Remap | None:
    user = _user_of(setting)
    if user.pw_name == "root":
        log.warning("User namespaces: root cannot be remapped with itself; they are OFF")
        return None
    return Remap(_ranges(etc / "subuid", user), _ranges(etc / "subgid", user))


def _user_of(setting: str) -> pwd.struct_passwd:
    """The group is only looked up: the ranges of both kinds are the user's."""
    name, *groups = setting.split(":")
    if len(groups) > 1:
        raise InvalidArgument(f'Invalid user/group specification in --userns-remap: "{setting}"')
    if name == DEFAULT:
        _make_default_user()
        name = DEFAULT_USER
    user = _look_up_user(name)
    _look_up_group(groups[0] if groups else name)
    return user


def _look_up_user(name: str) -> pwd.struct_passwd:
    try:
        if (number := _number(name)) is not None:
            return pwd.getpwuid(number)
    except KeyError as error:
        raise InvalidArgument(f"Uid {name} has no entry in /etc/passwd: {error}") from None
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise InvalidArgument(f'Error during uid lookup for "{name}": {error}') from None


def _look_up_group(name: str) -> None:
    try:
        if (number := _number(name)) is not None:
            grp.getgrgid(number)
            return
    except KeyError as error:
        raise InvalidArgument(f"Gid {name} has no entry in /etc/group: {error}") from None
    try:
        grp.getgrnam(name)
    except KeyError as error:
        raise InvalidArgument(f'Error during gid lookup for "{name}": {error}') from None


def _number(text: str) -> int | None:
    if text.isascii() and text.isdecimal() and int(text) <= MAX_NUMBER:
        return int(text)
    return None


def _ranges(path: Path, user: pwd.struct_passwd) -> tuple[IDMapping, ...]:
    """One after the other from 0 on, in the file's order."""
    mappings: list[IDMapping] = []
    inside = 0
    for name, start, size in subordinate_ids(path):
        if name in (user.pw_name, str(user.pw_uid)) and size > 0:
            mappings.append(IDMapping(inside, start, size))
            inside += size
    if not mappings:
        raise InvalidArgument(
            f'error creating ID mappings: no {path.name} ranges found for user "{user.pw_name}"'
        )
    return tuple(mappings)


def subordinate_ids(path: Path) -> Iterator[tuple[str, int, int]]:
    """subuid(5): ``owner:start:count``; what is no such line is passed over."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        name, *numbers = line.strip().split(":")
        if len(numbers) == 2 and all(each.isascii() and each.isdecimal() for each in numbers):
            yield name, int(numbers[0]), int(numbers[1])


# "default": a user and a group of that name are made, and ranges for it.


def _make_default_user() -> None:
    try:
        pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        pass
    else:
        return
    _run("useradd", "--system", "--user-group", "--shell", "/bin/false", DEFAULT_USER)
    for flag, path in (("--add-subuids", "/etc/subuid"), ("--add-subgids", "/etc/subgid")):
        taken = list(subordinate_ids(Path(path)))
        if not any(name == DEFAULT_USER for name, _, _ in taken):
            start = free_range((start, size) for _, start, size in taken)
            _run("usermod", flag, f"{start}-{start + RANGE_SIZE - 1}", DEFAULT_USER)


def free_range(taken: Iterator[tuple[int, int]]) -> int:
    start = RANGE_START
    for low, size in sorted(taken):
        if low < start + RANGE_SIZE and start < low + size:
            start = low + size
    return start


def _run(*command: str) -> None:
    what = f'Error during "{DEFAULT_USER}" user creation: '
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise InvalidArgument(f"{what}there is no command {command[0]}") from None
    if done.returncode:
        raise InvalidArgument(f"{what}{' '.join(command)}: {done.stderr.strip()}")
