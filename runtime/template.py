"""Library: the config.json that ``longshore-runtime spec`` writes, a shell in a container.

The values are those that other runtimes write, so that the same tutorials work.
"""

from __future__ import annotations

import orjson

from runtime.validate import OCI_VERSION

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HARMLESS = ["nosuid", "noexec", "nodev"]


def default_spec() -> bytes:
    document = {
        "ociVersion": OCI_VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "longshore",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": [
                *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys")),
                *(f"/proc/{name}" for name in ("latency_stats", "timer_list", "timer_stats")),
                *("/proc/sched_debug", "/proc/scsi"),
                *("/sys/firmware", "/sys/devices/virtual/powercap"),
            ],
            "readonlyPaths": [
                f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")
            ],
        },
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _process() -> dict[str, object]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": [_PATH, "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts() -> list[dict[str, object]]:
    table = (
        ("/proc", "proc", "proc", _HARMLESS),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", [*_HARMLESS, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", _HARMLESS),
        ("/sys", "sysfs", "sysfs", [*_HARMLESS, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*_HARMLESS, "relatime", "ro"]),
    )
    return [
        {"destination": destination, "type": kind, "source": source, "options": options}
        for destination, kind, source, options in table
    ]
