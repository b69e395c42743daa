"""longshored: facts about the machine for /info and /version that no engine is needed for."""

from __future__ import annotations

import os
import platform
import shlex
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# Names that Go, and so every client, has for what uname calls differently.
_GO_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
_OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))


def go_architecture() -> str:
    machine = platform.machine()
    return _GO_ARCHITECTURES.get(machine, machine)


def limits_kernel_memory(*, tcp: bool = False) -> bool:
    """Whether the kernel has limits of its own memory, which cgroup v2 has not."""
    return os.path.exists(f"/sys/fs/cgroup/memory/memory.kmem{'.tcp' * tcp}.limit_in_bytes")


def cpu_count() -> int:
    return len(os.sched_getaffinity(0))


def memory_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def os_release() -> dict[str, str]:
    """What os-release(5) says; empty where there is none."""
    for path in _OS_RELEASE:
        try:
            return parse_os_release(path.read_text(errors="replace"))
        except OSError:
            continue
    return {}


def parse_os_release(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#"):
            continue
        try:
            found[key] = "".join(shlex.split(value))
        except ValueError:
            continue  # a quote that does not end
    return found


def proxy(name: str) -> str:
    """A proxy's URL of the environment, without the secrets in it."""
    value = os.environ.get(name) or os.environ.get(name.lower()) or ""
    parts = urlsplit(value)
    if not parts.username and not parts.password:
        return value
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"xxxxx:xxxxx@{address}"))
