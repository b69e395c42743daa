"""Library of lifecycle: Docker's seccomp profiles, and the files with their compiled filters.

The default profile allows what seccomp_syscalls.py lists, some of it only with a capability; a
profile that a user gives is Docker's format, a superset of OCI's: rules that depend on
architecture, capabilities and kernel. Both come out as config.json's ``linux.seccomp``. The shim
is given a compiled filter only, named by the hash of that object:

    <exec-root>/seccomp/<sha256>.bpf
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import atomicfile
from common.errors import InternalError
from lifecycle import seccomp_syscalls as lists
from runtime import seccomp, spec
from runtime.errors import RuntimeFailure

# uname's machine → the name that profiles use in "arches".
ARCHES = {
    "x86_64": "amd64",
    "i386": "x86",
    "i686": "x86",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "ppc64le": "ppc64le",
    "ppc64": "ppc64",
    "mips64": "mips64",
    "loongarch64": "loong64",
}
SCMP_ARCH = {
    "amd64": "SCMP_ARCH_X86_64",
    "x86": "SCMP_ARCH_X86",
    "arm64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
    "riscv64": "SCMP_ARCH_RISCV64",
    "s390x": "SCMP_ARCH_S390X",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "ppc64": "SCMP_ARCH_PPC64",
    "mips64": "SCMP_ARCH_MIPS64",
    "loong64": "SCMP_ARCH_LOONGARCH64",
}
SUB_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "SCMP_ARCH_AARCH64": ("SCMP_ARCH_ARM",),
    "SCMP_ARCH_MIPS64": ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"),
    "SCMP_ARCH_S390X": ("SCMP_ARCH_S390",),
    "SCMP_ARCH_RISCV64": (),
    "SCMP_ARCH_LOONGARCH64": (),
}
# runc's default where a profile does not mention flags: without it the kernel may slow down all
# code of the container against speculative execution (SSBD before Linux 5.16).
DEFAULT_FLAGS = ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
ENOSYS = 38
# Docker's runtime compiles the filter; clients see its refusal in these words.
RUNTIME_PREFIX = (
    "failed to create task for container: failed to create shim task: "
    "OCI runtime create failed: runc create failed: "
)
AF_ALG, AF_VSOCK = 38, 40

Profile = dict[str, Any]  # linux.seccomp
Kernel = tuple[int, int]


@functools.cache
def this_arch() -> str:
    return ARCHES.get(platform.machine(), platform.machine())


@functools.cache
def this_kernel() -> Kernel:
    return parse_release(os.uname().release)


def parse_release(release: str) -> Kernel:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise InternalError(f'failed to parse kernel version "{release}"')
    return int(match[1]), int(match[2])


def default_profile(
    capabilities: Collection[str], arch: str | None = None, kernel: Kernel | None = None
) -> Profile:
    """What a container without a profile of its own gets; ``capabilities`` is its bounding set."""
    arch, kernel = arch or this_arch(), kernel or this_kernel()
    names = [name for group in lists.ALWAYS for name in group.split()]
    names += [name for arches, group in lists.BY_ARCH if arch in arches for name in group.split()]
    for capability, group in lists.BY_CAPABILITY.items():
        if capability in capabilities:
            names += group.split()
    if kernel >= (4, 8):
        # Before, a tracer could change the number of a call that the filter had let through.
        names += lists.TRACING.split()
    rules = [_rule(names), *_sockets(), *(_rule(["personality"], p) for p in _personalities())]
    if "CAP_SYS_ADMIN" not in capabilities:
        # The flags of clone are its second argument on s390.
        index = 1 if arch in ("s390", "s390x") else 0
        namespaces = _argument(index, lists.CLONE_NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ")
        rules.append(_rule(["clone"], namespaces))
        # Its flags are in memory, where a filter cannot look; C libraries then use clone.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": _architectures(arch),
        "flags": DEFAULT_FLAGS,
        "syscalls": rules,
    }


def _architectures(arch: str) -> list[str]:
    native = SCMP_ARCH.get(arch)
    return [native, *SUB_ARCHITECTURES.get(native, ())] if native else []


def _rule(names: Sequence[str], *arguments: Mapping[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    if arguments:
        rule["args"] = list(arguments)
    return rule


def _argument(index: int, value: int, op: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": op}


def _sockets() -> list[dict[str, Any]]:
    """All families but two: AF_VSOCK reaches the hypervisor past all firewalls, and AF_ALG has been
    a way into the page cache (CVE-2026-31431; moby allows it up to 28.5)."""
    return [
        _rule(["socket"], _argument(0, AF_ALG, "SCMP_CMP_LT")),
        _rule(["socket"], _argument(0, AF_ALG + 1, "SCMP_CMP_EQ")),
        _rule(["socket"], _argument(0, AF_VSOCK, "SCMP_CMP_GT")),
    ]


def _personalities() -> list[dict[str, Any]]:
    return [_argument(0, value, "SCMP_CMP_EQ") for value in lists.PERSONALITIES]


def resolve_profile(
    document: bytes,
    capabilities: Collection[str],
    arch: str | None = None,
    kernel: Kernel | None = None,
) -> Profile:
    """A profile in Docker's format, for this container.

    A bad profile is an InternalError, as it is with Docker, which reads it when the container
    starts and answers 500. Docker takes one with neither a default action nor rules as "no
    filter"; here it is a filter that allows everything.
    """
    arch, kernel = arch or this_arch(), kernel or this_kernel()
    given = _parse(document)
    calls = _list(given, "syscalls")
    architectures = _list(given, "architectures")
    arch_map = _list(given, "archMap")
    if not given.get("defaultAction") and not calls:
        return {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": _architectures(arch),
            "flags": DEFAULT_FLAGS,
            "syscalls": [],
        }
    if architectures and arch_map:
        raise InternalError(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    for entry in arch_map:
        if entry.get("architecture") == SCMP_ARCH.get(arch):
            architectures = [entry["architecture"], *(entry.get("subArchitectures") or [])]
            break
    profile: Profile = {
        "defaultAction": given.get("defaultAction", ""),
        "architectures": architectures,
        "flags": DEFAULT_FLAGS if given.get("flags") is None else _list(given, "flags"),
        "syscalls": [_plain(call) for call in calls if _applies(call, capabilities, arch, kernel)],
    }
    for key in ("defaultErrnoRet", "listenerPath", "listenerMetadata"):
        if given.get(key) is not None:
            profile[key] = given[key]
    return profile


def _parse(document: bytes) -> dict[str, Any]:
    try:
        given = json.loads(document)
    except ValueError as error:
        raise InternalError(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(given, dict):
        raise InternalError("Decoding seccomp profile failed: the profile is not a JSON object")
    return given


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    value = given.get(key)
    kind: type = str if key in ("architectures", "flags", "caps", "arches") else dict
    if value is not None and not (
        isinstance(value, list) and all(isinstance(each, kind) for each in value)
    ):
        raise InternalError(f"Decoding seccomp profile failed: field {key} has the wrong type")
    return value or []


def _plain(call: Mapping[str, Any]) -> dict[str, Any]:
    """The rule as OCI has it, without conditions and without the old ``name``."""
    rule = {key: call[key] for key in ("action", "errnoRet", "args") if call.get(key) is not None}
    rule["names"] = [call["name"]] if call.get("name") else call.get("names") or []
    return rule


def _applies(
    call: Mapping[str, Any], capabilities: Collection[str], arch: str, kernel: Kernel
) -> bool:
    if call.get("name") and call.get("names"):
        raise InternalError(
            "both 'name' and 'names' are specified in the seccomp profile, "
            "use either 'name' or 'names'"
        )
    excludes, includes = call.get("excludes") or {}, call.get("includes") or {}
    if arch in _list(excludes, "arches"):
        return False
    if any(name in capabilities for name in _list(excludes, "caps")):
        return False
    minimum = _minimum_kernel(excludes)
    if minimum is not None and kernel >= minimum:
        return False
    if (arches := _list(includes, "arches")) and arch not in arches:
        return False
    if not all(name in capabilities for name in _list(includes, "caps")):
        return False
    minimum = _minimum_kernel(includes)
    return minimum is None or kernel >= minimum


def _minimum_kernel(conditions: Mapping[str, Any]) -> Kernel | None:
    text = conditions.get("minKernel")
    if text in (None, ""):
        return None
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", text) if isinstance(text, str) else None
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version == (0, 0) or max(version) > 255:
        raise InternalError(
            "Decoding seccomp profile failed: "
            f'invalid kernel version: {json.dumps(text)}, expected "<kernel>.<major>"'
        )
    return version


@functools.lru_cache(maxsize=64)
def default_filter(directory: Path, capabilities: frozenset[str]) -> Path:
    """``cached_filter`` of ``default_profile``; the file may have been removed since."""
    return cached_filter(directory, default_profile(capabilities))


def cached_filter(directory: Path, oci_seccomp: Profile) -> Path:
    """The path of the compiled filter, made at first use.

    Two threads or processes may both make it: the content is the same and the rename atomic.
    """
    document = json.dumps(oci_seccomp, sort_keys=True).encode()
    path = directory / (hashlib.sha256(document).hexdigest() + ".bpf")
    if not path.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            program = seccomp.compile(spec.parse_seccomp(document))
        except spec.InvalidSpec as error:
            raise InternalError(f"Decoding seccomp profile failed: {error}") from error
        except RuntimeFailure as error:
            raise InternalError(RUNTIME_PREFIX + error.message) from error
        atomicfile.write(path, program, durable=False)
    return path
