"""Library: hands a seccomp filter's notification descriptor to the agent at listenerPath.

The parent does it: the path is the host's. The document is runtime-spec's "container process
state".
"""

from __future__ import annotations

import os
import socket

import orjson

from runtime import syscalls
from runtime.channel import Channel, Message
from runtime.errors import RuntimeFailure
from runtime.spec import Seccomp


def forward(
    channel: Channel, message: Message, profile: Seccomp | None, state: bytes, pid: int, pidfd: int
) -> None:
    """Answer the child's "listener": take the descriptor, pass it on, let the child continue."""
    if profile is None or not profile.listener_path:
        raise RuntimeFailure("seccomp", "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")
    try:
        fd = syscalls.pidfd_getfd(pidfd, message.fields["fd"])
        try:
            _send(profile, fd, state, pid)
        finally:
            os.close(fd)
    except OSError as error:
        what = f"unable to send the seccomp listener to {profile.listener_path}"
        raise RuntimeFailure.from_os("seccomp", error, what) from error
    channel.answer("taken")


def _send(profile: Seccomp, fd: int, state: bytes, pid: int) -> None:
    document = {
        "ociVersion": orjson.loads(state)["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata,
        "state": orjson.loads(state),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.connect(profile.listener_path)
        socket.send_fds(agent, [orjson.dumps(document)], [fd])
