"""Job: a new volume starts with what the image has where it is mounted.

The image is entered read-only; the volume's directory is the first descriptor.
"""

from __future__ import annotations

import os

from runtime.copyup import copy_tree
from runtime.rootpath import Root
from shim.protocol import Message


def fill(root: Root, arguments: Message, fds: list[int]) -> Message:
    try:
        source = root.open(str(arguments["path"]), os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return {"copied": False}
    copy_tree(source, fds[0])
    return {"copied": True}
