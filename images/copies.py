"""Library: the plain-copy driver: a container's root is a copy of its image, made at its creation.

For data roots on which overlayfs cannot be mounted, another overlayfs for instance. Layers keep
the whiteouts of the OCI image-spec as files there (``.wh.NAME``), because overlayfs's own cannot be
made either. What a container has changed is told from an index of its copy: another inode or
another change time is another file.

    <data-root>/snapshots/<container id>/{merged,index.json}

Blocking, for seconds where the image is large: in a thread or in the worker.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.apply import OPAQUE, WHITEOUT, WHITEOUT_META

MODIFIED, ADDED, DELETED = 0, 1, 2  # as Docker numbers them
COPY_BYTES = 1 << 30

Index = dict[str, tuple[int, int]]  # inode and change time, by path


@dataclass(frozen=True, slots=True)
class Change:
    path: str  # relative to the container's root
    kind: int
    size: int  # of a regular file


def merge(layers: Sequence[Path], target: Path) -> None:
    """Copy the layers, the bottom one first, over each other into the new directory ``target``."""
    target.mkdir()
    for layer in layers:
        _Copy(os.fsencode(layer), os.fsencode(target)).run()


def write_index(tree: Path, file: Path) -> None:
    file.write_text(json.dumps(_index(tree)))


def changes(tree: Path, file: Path) -> list[Change]:
    """What is different in ``tree`` since its index was written, in the order of paths."""
    before: Index = {path: (known[0], known[1]) for path, known in _read(file).items()}
    now = _index(tree)
    found = []
    for path in sorted({*before, *now}):
        if path not in now:
            if os.path.dirname(path) in now or "/" not in path:
                found.append(Change(path, DELETED, 0))
        elif before.get(path) != now[path]:
            state = os.lstat(tree / path)
            size = state.st_size if stat.S_ISREG(state.st_mode) else 0
            found.append(Change(path, MODIFIED if path in before else ADDED, size))
    return found


def write_layer(tree: Path, file: Path, target: Path) -> None:
    """Make the directory ``target`` a layer of what was changed, with whiteouts as files."""
    source, copy = os.fsencode(tree), os.fsencode(target)
    os.mkdir(copy)
    copying = _Copy(source, copy)
    for change in changes(tree, file):
        path = os.fsencode(change.path)
        copying.parents(path)
        if change.kind == DELETED:
            parent, _, name = path.rpartition(b"/")
            os.close(os.open(_join(copy, _join(parent, WHITEOUT + name)), os.O_CREAT, 0o600))
        else:
            copying.one(path)
    copying.finish()


class _Copy:
    def __init__(self, source: bytes, target: bytes) -> None:
        self._source = source
        self._target = target
        self._links: dict[int, bytes] = {}
        self._times: list[tuple[bytes, os.stat_result]] = []

    def run(self) -> None:
        self._attributes(b"", os.lstat(self._source))
        self._inside(b"")
        self.finish()

    def finish(self) -> None:
        for path, state in reversed(self._times):
            os.utime(_join(self._target, path), ns=(state.st_atime_ns, state.st_mtime_ns))

    def parents(self, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        if parent and not os.path.lexists(_join(self._target, parent)):
            self.parents(parent)
            self.one(parent)

    def _inside(self, directory: bytes) -> None:
        names = os.listdir(_join(self._source, directory))
        if OPAQUE in names:
            target = _join(self._target, directory)
            for name in os.listdir(target):
                _remove(_join(target, name))
        # A whiteout comes before what the same layer has in its place.
        for name in sorted(names, key=lambda name: not name.startswith(WHITEOUT)):
            path = _join(directory, name)
            if name.startswith(WHITEOUT):
                hidden = name.removeprefix(WHITEOUT)
                if not name.startswith(WHITEOUT_META) and hidden not in (b"", b".", b".."):
                    _remove(_join(self._target, _join(directory, hidden)))
            elif self.one(path):
                self._inside(path)

    def one(self, path: bytes) -> bool:
        """Copy one object, without what is below it; whether it is a directory."""
        source, target = _join(self._source, path), _join(self._target, path)
        state = os.lstat(source)
        is_directory = stat.S_ISDIR(state.st_mode)
        if os.path.lexists(target) and not (is_directory and _is_directory(target)):
            _remove(target)
        if is_directory:
            if not os.path.lexists(target):
                os.mkdir(target)
        elif state.st_nlink > 1 and state.st_ino in self._links:
            os.link(self._links[state.st_ino], target, follow_symlinks=False)
            return False
        elif stat.S_ISREG(state.st_mode):
            _copy_content(source, target, state.st_size)
        elif stat.S_ISLNK(state.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            os.mknod(target, state.st_mode, state.st_rdev)
        self._links[state.st_ino] = target
        self._attributes(path, state)
        return is_directory

    def _attributes(self, path: bytes, state: os.stat_result) -> None:
        source, target = _join(self._source, path), _join(self._target, path)
        os.chown(target, state.st_uid, state.st_gid, follow_symlinks=False)
        for name in os.listxattr(source, follow_symlinks=False):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        if not stat.S_ISLNK(state.st_mode):
            os.chmod(target, stat.S_IMODE(state.st_mode))
        if stat.S_ISDIR(state.st_mode):
            self._times.append((path, state))
        else:
            times = (state.st_atime_ns, state.st_mtime_ns)
            os.utime(target, ns=times, follow_symlinks=False)


def _copy_content(source: bytes, target: bytes, size: int) -> None:
    """The data only: holes stay holes."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        at = 0
        while at < size:
            try:
                at = os.lseek(reading, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # a hole up to the end
            end = os.lseek(reading, at, os.SEEK_HOLE)
            os.lseek(reading, at, os.SEEK_SET)
            os.lseek(writing, at, os.SEEK_SET)
            while at < end:
                copied = os.copy_file_range(reading, writing, min(end - at, COPY_BYTES))
                if not copied:
                    break
                at += copied
        os.ftruncate(writing, size)
    finally:
        os.close(reading)
        os.close(writing)


def _index(tree: Path) -> Index:
    found: Index = {}
    for path, state in _walk(os.fspath(tree), ""):
        found[path] = (state.st_ino, state.st_ctime_ns)
    return found


def _walk(tree: str, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(os.path.join(tree, directory)) as entries:
        for entry in entries:
            path = os.path.join(directory, entry.name)
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(tree, path)


def _read(file: Path) -> dict[str, list[int]]:
    known: dict[str, list[int]] = json.loads(file.read_text())
    return known


def _is_directory(path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _remove(path: bytes) -> None:
    if not os.path.lexists(path):
        return
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory and name else directory or name
