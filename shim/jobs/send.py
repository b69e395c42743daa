"""Job: from a container's files to a tar: ``docker cp`` out of it, export, and what a path is.

The tar goes to the first descriptor, the client's or longshored's, at the pace at which it is
taken; file content goes there without passing through this process.
"""

from __future__ import annotations

import errno
import os
import select
import stat

from common.treetar import TreeWriter
from runtime import syscalls
from runtime.rootpath import Root
from shim.jobs import paths
from shim.protocol import Message

BUFFER = 1 << 16
ZEROS = bytes(BUFFER)
SENDFILE_LIMIT = 1 << 30
# Mounted by the container itself, perhaps: nothing in them is a file that could be copied.
KERNEL_FILESYSTEMS = frozenset(
    (
        syscalls.PROC_SUPER_MAGIC,
        syscalls.CGROUP_SUPER_MAGIC,
        syscalls.CGROUP2_SUPER_MAGIC,
        syscalls.DEVPTS_SUPER_MAGIC,
        0x62656572,  # sysfs
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
    )
)


class Output:
    """A tar's sink on a descriptor, which may be non-blocking; small pieces are put together.

    ``chunked``: the descriptor is an HTTP client's connection, and longshored ends the response.
    """

    def __init__(self, fd: int, *, chunked: bool = False) -> None:
        self._fd = fd
        self._chunked = chunked
        self._pending: list[bytes] = []
        self._size = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= BUFFER:
            self.flush()

    def copy(self, fd: int, size: int) -> None:
        if size < BUFFER:
            data = os.read(fd, size) if size else b""
            self.write(data.ljust(size, b"\0"))
            return
        self.flush()
        if self._chunked:
            self._send(b"%x\r\n" % size)
        left = size
        while left:
            left -= self._send_file(fd, left)
        if self._chunked:
            self._send(b"\r\n")

    def flush(self) -> None:
        data = b"".join(self._pending)
        if self._chunked and data:
            data = b"%x\r\n%s\r\n" % (len(data), data)
        self._pending, self._size = [], 0
        self._send(data)

    def _send_file(self, fd: int, left: int) -> int:
        while True:
            try:
                sent = os.sendfile(self._fd, fd, None, min(left, SENDFILE_LIMIT))
                # Nothing: the file was cut off since its size was announced.
                return sent or os.write(self._fd, ZEROS[:left])
            except BlockingIOError:
                self._poll.poll()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                self._poll.poll()


class ContainerWriter(TreeWriter):
    def __init__(self, output: Output, device: int) -> None:
        super().__init__(output, whole_seconds=True)
        self._device = device

    def is_entered(self, directory: int) -> bool:
        if os.fstat(directory).st_dev == self._device:
            return True
        return syscalls.fstatfs_type(directory) not in KERNEL_FILESYSTEMS


def stat_path(root: Root, arguments: Message, fds: list[int]) -> Message:
    path = paths.clean(arguments["path"])
    try:
        fd = paths.open_object(root, path)
        state = os.fstat(fd)
    except OSError as error:
        raise paths.failure(error, path, arguments) from error
    os.close(fd)
    link = paths.target(root, path) if stat.S_ISLNK(state.st_mode) else ""
    return {
        "name": paths.base(path),
        "size": state.st_size,
        "mode": state.st_mode,
        "mtime": state.st_mtime_ns,
        "link_target": os.fsencode(link).decode("utf-8", "replace"),
    }


def get(root: Root, arguments: Message, fds: list[int]) -> Message:
    path = paths.clean(arguments["path"])
    output = Output(fds[0], chunked=arguments["chunked"])
    writer = ContainerWriter(output, os.stat("/").st_dev)
    try:
        directory = _open_directory(root, path)
        if directory < 0:
            _single(root, path, writer)
    except OSError as error:
        raise paths.failure(error, path, arguments) from error
    if directory >= 0:
        name = os.fsencode(paths.base(path))
        writer.root(directory, name if name == b"/" else name + b"/")
    writer.end()
    output.flush()
    return {}


def _open_directory(root: Root, path: str) -> int:
    """-1 if it is something else, or a link; a final slash follows a link."""
    try:
        return root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    os.close(paths.open_object(root, path))  # raises if there is nothing
    return -1


def _single(root: Root, path: str, writer: TreeWriter) -> None:
    directory, name = paths.open_parent(root, path)
    try:
        raw = os.fsencode(name)
        state = os.stat(raw, dir_fd=directory, follow_symlinks=False)
        writer.object(directory, raw, raw, state)
    finally:
        os.close(directory)


def export(root: Root, arguments: Message, fds: list[int]) -> Message:
    output = Output(fds[0], chunked=arguments["chunked"])
    writer = ContainerWriter(output, os.stat("/").st_dev)
    directory = root.open("/", os.O_RDONLY | os.O_DIRECTORY)
    writer.contents(directory, b"")
    writer.end()
    output.flush()
    return {}
