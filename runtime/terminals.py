"""Library: sends a pty master to --console-socket, as containerd and Podman expect it."""

from __future__ import annotations

import os
import socket

from runtime.errors import RuntimeFailure

NAME = b"/dev/pts/ptmx"


def send_master(path: str, master: int) -> None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as receiver:
            receiver.connect(path)
            socket.send_fds(receiver, [NAME], [master])
    except OSError as error:
        raise RuntimeFailure.from_os("console", error, f"dial console socket {path}") from error
    finally:
        os.close(master)
