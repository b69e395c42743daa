"""Library: hands a seccomp filter's notification descriptor to the agent at listenerPath.

The parent does it: the path is the host's. The document is runtime-spec's "container process
state".
"""

from __future__ import annotations

import socket

import orjson

from runtime.errors import RuntimeFailure
from runtime.spec import Seccomp


def send(profile: Seccomp, fd: int, state: bytes, pid: int) -> None:
    document = {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.listener_metadata,
        "state": orjson.loads(state),
    }
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.connect(profile.listener_path)
            socket.send_fds(agent, [orjson.dumps(document)], [fd])
    except OSError as error:
        what = f"unable to send the seccomp listener to {profile.listener_path}"
        raise RuntimeFailure.from_os("seccomp", error, what) from error
