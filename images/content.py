"""Library: the content store, blobs named by their sha256; opened by lifecycle and by the worker.

    <data-root>/content/sha256/<hex>     manifests, configurations and layers, as they were received
    <data-root>/content/ingest/<random>  being written

The worker writes, lifecycle reads and deletes. A blob gets its name when all of it is there and its
digest was verified. Files are not fsync'ed one by one: the worker calls ``sync`` once, before it
reports an image, and only then does lifecycle's transaction name the blobs; whatever a crash left
that no transaction names is removed at the next start.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import InternalError, NotFound
from images.reference import DIGEST

METADATA_LIMIT = 4 << 20  # manifests and configurations: what registries accept, too

_libc = ctypes.CDLL(None, use_errno=True)


class DigestMismatch(InternalError):
    """The bytes are not those that the digest names."""


class ContentStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "sha256"
        self._ingest = root / "ingest"

    def create(self) -> None:
        for directory in (self.root, self._blobs, self._ingest):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def occupy(self) -> int:
        """A descriptor that shows, for as long as a process has it, that one writes here."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd

    async def is_left_alone(self, seconds: float) -> bool:
        """Whether nobody writes here; the worker of a lifecycle that died is about to end."""
        deadline = time.monotonic() + seconds
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    await asyncio.sleep(0.01)
                else:
                    return True
        finally:
            os.close(fd)

    def path(self, digest: str) -> Path:
        # The digest becomes a file's name, so its form is checked first.
        if not DIGEST.fullmatch(digest) or not digest.startswith("sha256:"):
            raise InternalError(f"unsupported digest {digest[:100]!r}")
        return self._blobs / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def open(self, digest: str) -> int:
        """A descriptor to read the blob from, owned by the caller."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as e:
            raise NotFound(f"content {digest} is missing") from e

    def read(self, digest: str, limit: int = METADATA_LIMIT) -> bytes:
        """A manifest or a configuration; verified, since disks and people change files."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InternalError(f"content {digest} is larger than {limit} bytes")
        if digest_of(data) != digest:
            raise DigestMismatch(f"content {digest} is damaged")
        return data

    def add(self, data: bytes) -> str:
        with self.ingest() as ingest:
            ingest.write(data)
            return ingest.commit()

    def ingest(self) -> Ingest:
        return Ingest(self, self._ingest / secrets.token_hex(16))

    def digests(self) -> Iterator[str]:
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                yield f"sha256:{entry.name}"

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def collect(self, known: Iterable[str]) -> None:
        """Remove every blob that is not ``known``, and all half-written ones."""
        keep = set(known)
        for digest in list(self.digests()):
            if digest not in keep:
                os.unlink(self._blobs / digest.removeprefix("sha256:"))
        self.discard_ingests()

    def discard_ingests(self) -> None:
        """Those of a worker that died; nothing writes now."""
        for path in self._ingest.iterdir():
            path.unlink()

    def sync(self) -> None:
        """Make all that was written to the data root survive a power cut (syncfs)."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                error = ctypes.get_errno()
                raise OSError(error, f"syncfs: {os.strerror(error)}", str(self.root))
        finally:
            os.close(fd)


class Ingest:
    """A blob being written; removed on leaving the ``with`` unless committed."""

    def __init__(self, store: ContentStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._committed = False
        self.size = 0
        self._fd = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def restart(self) -> None:
        """Forget what was written: the source started anew."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0

    def reader(self) -> int:
        """A descriptor of its own on the bytes written so far, owned by the caller."""
        place = self._store.path(self.digest) if self._committed else self._path
        return os.open(place, os.O_RDONLY | os.O_CLOEXEC)

    def commit(self, digest: str | None = None, size: int | None = None) -> str:
        """Give the blob its name after checking it against what was promised."""
        if digest is not None and digest != self.digest:
            raise DigestMismatch(f"content does not match digest {digest}: got {self.digest}")
        if size is not None and size != self.size:
            raise DigestMismatch(f"content {self.digest} has {self.size} bytes, expected {size}")
        os.rename(self._path, self._store.path(self.digest))
        self._committed = True
        return self.digest

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
        self._fd = -1
        self._path.unlink(missing_ok=True)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
