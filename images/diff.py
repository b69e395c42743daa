"""Worker: a container's upper directory as a layer's tar.

overlayfs's whiteouts and opaque directories become those of the OCI image-spec; the rest is
common/treetar.py's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from common import tar
from common.treetar import TreeWriter, pieces
from images.apply import OPAQUE, WHITEOUT

PIECE = 1 << 18
_OPAQUE_XATTR = "trusted.overlay.opaque"

Write = Callable[[bytes], None]


class LayerWriter(TreeWriter):
    def __init__(self, write: Write) -> None:
        super().__init__(_Output(write))

    def write(self, root: int) -> None:
        """All of ``root``, a directory's descriptor, in the order of names."""
        self.contents(root, b"")
        self.end()

    def contents(self, directory: int, prefix: bytes, depth: int = 0) -> None:
        if prefix and _is_opaque(directory):
            self._empty(prefix + OPAQUE)
        super().contents(directory, prefix, depth)

    def object(
        self, directory: int, name: bytes, shown: bytes, state: os.stat_result, depth: int = 0
    ) -> None:
        if stat.S_ISCHR(state.st_mode) and state.st_rdev == 0:
            self._empty(shown[: -len(name)] + WHITEOUT + name)
            return
        super().object(directory, name, shown, state, depth)

    def _empty(self, name: bytes) -> None:
        self._sink.write(tar.header(tar.Entry(name, tar.REGULAR, 0o600, 0, 0, 0, 0)))


class _Output:
    def __init__(self, write: Write) -> None:
        self.write = write

    def copy(self, fd: int, size: int) -> None:
        for piece in pieces(fd, size, PIECE):
            self.write(piece)


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE_XATTR) == b"y"
    except OSError as e:
        if e.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
