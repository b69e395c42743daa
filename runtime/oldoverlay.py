"""Library: a detached overlay on kernels before Linux 6.7, where only mount(2) can make every one.

There a value given to fsconfig(2) has 255 bytes at most, which a list of layers exceeds, and before
6.5 overlayfs sees no option before the mount is created. mount(2) needs a place: it is made in a
mount namespace of the calling thread's own, so that neither the host nor another thread sees it,
and a clone of it leaves that namespace.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence

from runtime import namespaces, syscalls

LAYERS_SINGLY_SINCE = (6, 7)
PLACE = "/proc"  # whatever is there is covered in that namespace alone


@functools.cache
def wanted() -> bool:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return match is not None and (int(match[1]), int(match[2])) < LAYERS_SINGLY_SINCE


def make(source: str, options: Sequence[str]) -> int:
    data = ",".join(option.replace("\\", "\\\\").replace(",", "\\,") for option in options)
    with namespaces.private_mounts():
        syscalls.mount(source, PLACE, "overlay", 0, data)
        return syscalls.open_tree(syscalls.AT_FDCWD, PLACE, syscalls.OPEN_TREE_CLONE)
