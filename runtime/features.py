"""Library: what ``longshore-runtime features`` says (runtime-spec, features.md).

Everything is read from the tables that the runtime works by, so that it cannot claim what it does
not do.
"""

from __future__ import annotations

import orjson

from runtime import capabilities, lsm, mountoptions, namespaces, seccomp
from runtime.validate import OCI_VERSION


def document() -> bytes:
    enabled = {"enabled": True}
    return orjson.dumps(
        {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": OCI_VERSION,
            "hooks": [
                *("prestart", "createRuntime", "createContainer"),
                *("startContainer", "poststart", "poststop"),
            ],
            "mountOptions": _mount_options(),
            "linux": {
                "namespaces": sorted(namespaces.TYPES),
                "capabilities": sorted(capabilities.NUMBERS, key=capabilities.NUMBERS.__getitem__),
                "cgroup": {
                    "v1": True,
                    "v2": True,
                    "systemd": False,
                    "systemdUser": False,
                    "rdma": True,
                },
                "seccomp": {
                    "enabled": True,
                    "actions": sorted(seccomp.ACTIONS),
                    "operators": sorted(seccomp.OPERATORS),
                    "archs": sorted(f"SCMP_ARCH_{name.upper()}" for name in seccomp.AUDIT_ARCH),
                    "knownFlags": sorted(seccomp.FLAGS),
                    "supportedFlags": sorted(seccomp.FLAGS),
                },
                "apparmor": {"enabled": lsm.apparmor_enabled()},
                "selinux": {"enabled": lsm.selinux_enabled()},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": enabled},
            },
            "potentiallyUnsafeConfigAnnotations": [],
        },
        option=orjson.OPT_INDENT_2,
    )


def _mount_options() -> list[str]:
    attributes = set(mountoptions.ATTRIBUTES)
    words = {*mountoptions.PROPAGATION, *mountoptions.NO_EFFECT, *mountoptions.WORDS}
    return sorted(attributes | {f"r{name}" for name in attributes} | words - {""})
