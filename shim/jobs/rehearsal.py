"""Library: what a job does with a running container's files, done with files in memory.

The zygote does it before its first fork, so that the interpreter has specialised the code; a job
that waits for its request does it again, so that it has its own copies of the pages that will be
written to. Nothing of the machine is changed, and all is gone at the end.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from common import tar
from runtime import syscalls
from runtime.rootpath import Root
from runtime.syscalls import CLONE_NEWNS
from shim.jobs import receive, send, view
from shim.protocol import Connection, Message, close_all

_MEMBER = tar.Entry(
    name=b"file", type=tar.REGULAR, mode=0o644, uid=0, gid=0, size=len(b"x"), mtime=0
)
_MESSAGE: Message = {
    "kind": "put",
    "view": {"running": True, "hidden": ["/nowhere"], "user_namespace": False},
    "arguments": {
        "ref": "example",
        "path": "/",
        "no_overwrite_dir_non_dir": True,
        "copy_uid_gid": False,
        "user": "",
        "chunked": True,
    },
}


def run() -> None:
    with suppress(OSError):
        root = Root(view.in_memory())
        try:
            _enter(root)
            _copy(root, _receive()["arguments"])
        finally:
            os.close(root.fd)


def _receive() -> Message:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Connection(ours).send(_MESSAGE, [0])
        message, fds = Connection(theirs).recv()
    close_all(fds)
    return message


def _enter(root: Root) -> None:
    """The calls of view.py, of which those fail that would go anywhere."""
    with suppress(OSError):
        syscalls.setns(-1, CLONE_NEWNS)
    with suppress(OSError):
        syscalls.umount("", syscalls.MNT_DETACH)
    syscalls.unshare(0)
    syscalls.mount_setattr(root.fd, propagation=syscalls.MS_PRIVATE, recursive=True)
    os.chdir("/")
    os.close(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def _copy(root: Root, arguments: Message) -> None:
    content = b"".join((tar.header(_MEMBER), b"x".ljust(tar.BLOCK, b"\0"), tar.end()))
    early, stream, output = (os.memfd_create("rehearsal", os.MFD_CLOEXEC) for _ in range(3))
    try:
        os.write(stream, b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        os.lseek(stream, 0, os.SEEK_SET)
        receive.put(root, arguments, [early, stream])
        file = {**arguments, "path": "/file"}
        send.stat_path(root, file, [])
        send.get(root, file, [output])
    finally:
        close_all((early, stream, output))
