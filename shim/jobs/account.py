"""Job: whether the container knows a user, before anything is started for it."""

from __future__ import annotations

from common.errors import InvalidArgument
from runtime import users
from runtime.errors import RuntimeFailure
from runtime.rootpath import Root
from runtime.spec import User
from shim.protocol import Message


def check_user(root: Root, arguments: Message, _fds: list[int]) -> Message:
    """``user[:group]``, by the container's own files."""
    try:
        users.resolve(User(username=arguments["user"]), root)
    except RuntimeFailure as failure:
        raise InvalidArgument(str(failure)) from failure
    return {}
