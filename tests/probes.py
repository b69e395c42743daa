"""Test support: named questions to the machine, so that a skipped test says what was missing.

``@requires("cgroup2")`` on a test or ``pytestmark = requires("overlay")`` in a module.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


def _filesystem(name: str) -> bool:
    lines = Path("/proc/filesystems").read_text().splitlines()
    return name in (line.split()[-1] for line in lines)


def _controllers_on_v2() -> bool:
    path = Path("/sys/fs/cgroup/cgroup.controllers")
    return path.exists() and bool(path.read_text().split())


def _sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    except OSError:
        return False
    return True


PROBES: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (lambda: os.geteuid() == 0, "needs root"),
    "overlay": (lambda: _filesystem("overlay"), "the kernel has no overlayfs"),
    "cgroup2": (_controllers_on_v2, "no cgroup v2 controllers here"),
    "cgroup1": (lambda: Path("/sys/fs/cgroup/devices").is_dir(), "no cgroup v1 controllers here"),
    "userns": (lambda: Path("/proc/self/ns/user").exists(), "no user namespaces"),
    "ipv6": (lambda: Path("/proc/net/if_inet6").exists(), "no IPv6"),
    "sctp": (_sctp, "the kernel has no SCTP"),
    "mmdebstrap": (lambda: shutil.which("mmdebstrap") is not None, "mmdebstrap is missing"),
}


def requires(name: str) -> pytest.MarkDecorator:
    holds, reason = PROBES[name]
    return pytest.mark.skipif(not holds(), reason=reason)
