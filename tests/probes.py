"""Test support: named questions to the machine, so that a skipped test says what was missing.

``@requires("cgroup2")`` on a test or ``pytestmark = requires("overlay")`` in a module.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from lifecycle import mapped_overlay
from lifecycle.remap import Remap
from runtime import namespaces
from runtime.errors import RuntimeFailure
from runtime.spec import IDMapping


def _filesystem(name: str) -> bool:
    lines = Path("/proc/filesystems").read_text().splitlines()
    return name in (line.split()[-1] for line in lines)


def _controllers_on_v2() -> bool:
    path = Path("/sys/fs/cgroup/cgroup.controllers")
    return path.exists() and bool(path.read_text().split())


def _link_kind(kind: str) -> bool:
    """Tried in a network namespace that ends at once."""
    script = f"ip link add d0 type dummy || ip link add d0 type bridge; {LINK_KINDS[kind]}"
    done = subprocess.run(["unshare", "-n", "sh", "-c", script], capture_output=True)
    return done.returncode == 0


def _sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def _apparmor() -> bool:
    return (
        shutil.which("apparmor_parser", path="/sbin:/usr/sbin") is not None
        and Path("/sys/kernel/security/apparmor/profiles").exists()
    )


LINK_KINDS = {
    "ipvlan": "ip link add link d0 name d1 type ipvlan",
    "vlan": "ip link add link d0 name d1 type vlan id 10",
}


def _idmapped_layers() -> bool:
    """Where tests have their engines' data roots."""
    if os.geteuid() != 0:
        return True  # then it is "root" that is missing
    with tempfile.TemporaryDirectory() as directory:
        try:
            mapping = (IDMapping(0, 100_000, 65_536),)
            userns = namespaces.mapped_userns(mapping, mapping)
            try:
                mapped_overlay.try_out(Remap(mapping, mapping, userns), Path(directory, "try"))
            finally:
                os.close(userns)
        except (InvalidArgument, RuntimeFailure, OSError):
            return False
    return True


PROBES: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (lambda: os.geteuid() == 0, "needs root"),
    "overlay": (lambda: _filesystem("overlay"), "the kernel has no overlayfs"),
    "cgroup2": (_controllers_on_v2, "no cgroup v2 controllers here"),
    "cgroup1": (lambda: Path("/sys/fs/cgroup/devices").is_dir(), "no cgroup v1 controllers here"),
    "userns": (lambda: Path("/proc/self/ns/user").exists(), "no user namespaces"),
    "idmapped": (
        cache(_idmapped_layers),
        "the kernel has no idmapped mounts for the file system of temporary files",
    ),
    "ipv6": (lambda: Path("/proc/net/if_inet6").exists(), "no IPv6"),
    "apparmor": (_apparmor, "AppArmor or its parser is missing: run tests.vm"),
    "ipvlan": (lambda: _link_kind("ipvlan"), "the kernel has no ipvlan: run tests.vm"),
    "vlan": (lambda: _link_kind("vlan"), "the kernel has no VLANs (802.1Q): run tests.vm"),
    "sctp": (_sctp, "the kernel has no SCTP: run tests.vm"),
    "mmdebstrap": (lambda: shutil.which("mmdebstrap") is not None, "mmdebstrap is missing"),
}


def requires(name: str) -> pytest.MarkDecorator:
    holds, reason = PROBES[name]
    return pytest.mark.skipif(not holds(), reason=reason)
