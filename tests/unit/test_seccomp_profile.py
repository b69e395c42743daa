"""Docker's seccomp profiles and capability rules, as data."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from common.errors import InternalError, InvalidArgument
from lifecycle import capabilities, seccomp_syscalls
from lifecycle.seccomp_profile import default_profile, parse_release, resolve_profile
from runtime import seccomp
from runtime.errors import RuntimeFailure
from runtime.seccomp import Stub, prefix_program
from runtime.spec import Seccomp, SeccompArg, SeccompRule


def names(profile: dict[str, Any]) -> set[str]:
    allowed = (rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW")
    return {name for rule in allowed for name in rule["names"]}


def resolve(document: dict[str, Any], **rest: Any) -> dict[str, Any]:
    rest = {"capabilities": (), "arch": "amd64", "kernel": (6, 1), **rest}
    return resolve_profile(json.dumps(document).encode(), **rest)


def test_the_tables_name_no_call_twice() -> None:
    every = [name for group in seccomp_syscalls.ALWAYS for name in group.split()]
    assert len(every) == len(set(every)) == 361


def test_capabilities_open_calls() -> None:
    plain = names(default_profile((), "amd64", (6, 1)))
    assert {"read", "clone", "socket", "personality", "arch_prctl", "ptrace"} <= plain
    assert not {"mount", "chroot", "bpf", "reboot", "clone3", "unshare", "io_uring_setup"} & plain
    admin = names(default_profile(("CAP_SYS_ADMIN",), "amd64", (6, 1)))
    assert {"mount", "clone3", "unshare", "bpf"} <= admin
    assert "ptrace" not in names(default_profile((), "amd64", (4, 7)))
    assert "ptrace" in names(default_profile(("CAP_SYS_PTRACE",), "amd64", (4, 7)))


def test_architectures_of_the_default() -> None:
    x86 = default_profile((), "amd64", (6, 1))["architectures"]
    assert x86 == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert "arch_prctl" not in names(default_profile((), "arm64", (6, 1)))
    clone = [r for r in default_profile((), "s390x", (6, 1))["syscalls"] if r["names"] == ["clone"]]
    assert clone[0]["args"][0]["index"] == 1


RULE = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({}, True),
        ({"includes": {}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"caps": ["CAP_KILL"]}}, True),
        ({"includes": {"caps": ["CAP_KILL", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_KILL", "CAP_BPF"]}}, False),
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.2"}}, False),
        ({"excludes": {"minKernel": "5.20"}}, False),
        ({"excludes": {"minKernel": ""}}, True),
    ],
)
def test_conditions(conditions: dict[str, Any], kept: bool) -> None:
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{**RULE, **conditions}]}
    assert bool(resolve(document, capabilities=("CAP_KILL",))["syscalls"]) == kept


def test_the_architecture_map_and_the_rest_is_copied() -> None:
    profile = resolve(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": None},
            ],
            "flags": [],
            "syscalls": [
                {"name": "read", "action": "SCMP_ACT_ALLOW", "args": None, "comment": "x"}
            ],
        }
    )
    assert profile == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": [],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }


def test_an_empty_profile_allows_everything() -> None:
    assert resolve({})["defaultAction"] == "SCMP_ACT_ALLOW"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"{bad", "^Decoding seccomp profile failed: "),
        (b"[]", "^Decoding seccomp profile failed: "),
        (b'{"syscalls": 5}', "field syscalls has the wrong type"),
        (
            b'{"architectures": ["SCMP_ARCH_X86"], "archMap": [{}], "defaultAction": "x"}',
            "^both 'architectures' and 'archMap' are specified in the seccomp profile, use either",
        ),
        (
            b'{"syscalls": [{"name": "a", "names": ["b"]}]}',
            "^both 'name' and 'names' are specified in the seccomp profile, use either 'name' or",
        ),
        (
            b'{"syscalls": [{"names": ["b"], "includes": {"minKernel": "x"}}]}',
            'invalid kernel version: "x", expected "<kernel>.<major>"',
        ),
        (b'{"syscalls": [{"excludes": {"minKernel": "0.0"}}]}', "invalid kernel version"),
        (b'{"syscalls": [{"excludes": {"minKernel": 4}}]}', "invalid kernel version"),
    ],
)
def test_bad_profiles(document: bytes, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        resolve_profile(document, (), "amd64", (6, 1))


def test_kernel_releases() -> None:
    assert parse_release("3.12.25-gentoo") == (3, 12)
    assert parse_release("6.1-rc5") == (6, 1)
    with pytest.raises(InternalError, match="failed to parse kernel version"):
        parse_release("linux")


def run_prefix(program: bytes, audit: int, number: int) -> int | None:
    """The action, or None when the program goes on to what follows it."""
    data = struct.pack("<II", number, audit)
    accumulator, counter = 0, 0
    while counter * 8 < len(program):
        code, true, false, value = struct.unpack_from("=HBBI", program, counter * 8)
        counter += 1
        match code:
            case seccomp.BPF_LD_W_ABS:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case seccomp.BPF_JA:
                counter += value
            case seccomp.BPF_JEQ:
                counter += true if accumulator == value else false
            case seccomp.BPF_JGT:
                counter += true if accumulator > value else false
            case seccomp.BPF_JSET:
                counter += true if accumulator & value else false
            case seccomp.BPF_RET:
                return int(value)
    assert counter * 8 == len(program)
    return None


X86_64, I386, S390X = (seccomp.AUDIT_ARCH[name] for name in ("x86_64", "x86", "s390x"))
X32 = seccomp.X32_SYSCALL_BIT


@pytest.mark.parametrize(
    ("audit", "number", "verdict"),
    [
        (X86_64, 450, None),
        (X86_64, 451, seccomp.RET_ENOSYS),
        (X86_64, X32 | 520, None),
        (X86_64, X32 | 548, seccomp.RET_ENOSYS),
        (X86_64, 0xFFFFFFFF, seccomp.RET_ENOSYS),
        (X86_64, 440, 99),
        (X86_64, X32 | 440, None),
        (I386, 400, None),
        (I386, 401, seccomp.RET_ENOSYS),
        (S390X, 0, seccomp.RET_ENOSYS),
        (S390X, 1, None),
        (S390X, 301, seccomp.RET_ENOSYS),
        (seccomp.AUDIT_ARCH["aarch64"], 9999, None),
    ],
)
def test_the_program_before_the_filter(audit: int, number: int, verdict: int | None) -> None:
    stubs = {
        "x86_64": Stub(450, {440: 99}),
        "x86": Stub(400, {}),
        "x32": Stub(X32 | 547, {}),
        "s390x": Stub(300, {}),
    }
    assert run_prefix(prefix_program(stubs), audit, number) == verdict


def test_one_abi_of_x86_leaves_the_other_alone() -> None:
    only_64 = prefix_program({"x86_64": Stub(450, {})})
    assert run_prefix(only_64, X86_64, X32 | 1) is None
    assert run_prefix(only_64, X86_64, 451) == seccomp.RET_ENOSYS
    only_32 = prefix_program({"x32": Stub(X32 | 547, {})})
    assert run_prefix(only_32, X86_64, 451) is None
    assert run_prefix(only_32, X86_64, X32 | 548) == seccomp.RET_ENOSYS


def test_nothing_to_decide_is_no_program() -> None:
    assert prefix_program({}) == b""


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (Seccomp("SCMP_ACT_FOO"), "string SCMP_ACT_FOO is not a valid action for seccomp"),
        (
            Seccomp("SCMP_ACT_ALLOW", architectures=("SCMP_ARCH_VAX",)),
            "string SCMP_ARCH_VAX is not a valid arch for seccomp",
        ),
        (Seccomp("SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            Seccomp("SCMP_ACT_ALLOW", syscalls=(SeccompRule(("write",), "SCMP_ACT_NOTIFY"),)),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW",
                syscalls=(
                    SeccompRule(("read",), "SCMP_ACT_TRAP", args=(SeccompArg(0, 1, op="x"),)),
                ),
            ),
            "string x is not a valid operator for seccomp",
        ),
        (
            Seccomp(
                "SCMP_ACT_ALLOW",
                syscalls=(SeccompRule(("read",), "SCMP_ACT_TRAP", args=(SeccompArg(6, 1),)),),
            ),
            "argument index 6 is not within",
        ),
    ],
)
def test_compile_refuses(profile: Seccomp, message: str) -> None:
    with pytest.raises(RuntimeFailure, match=message):
        seccomp.compile(profile)


def test_flags() -> None:
    named = Seccomp("SCMP_ACT_ALLOW", flags=tuple(seccomp.FLAGS))
    assert seccomp.flags(named) == 2 | 4 | 32
    with pytest.raises(RuntimeFailure, match="seccomp flag NOPE is not known"):
        seccomp.flags(Seccomp("SCMP_ACT_ALLOW", flags=("NOPE",)))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(RuntimeFailure, match=r"libseccomp\.so\.2 cannot be loaded"):
        seccomp.compile(Seccomp("SCMP_ACT_ALLOW"))


@pytest.fixture(autouse=True)
def all_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "available", lambda: capabilities.KNOWN)


def test_capability_adjustments() -> None:
    adjust = capabilities.adjust
    assert adjust([], []) == list(capabilities.DEFAULT)
    assert adjust(["net_admin"], ["CAP_MKNOD", "kill"]) == [
        *(name for name in capabilities.DEFAULT if name not in ("CAP_MKNOD", "CAP_KILL")),
        "CAP_NET_ADMIN",
    ]
    assert adjust(["Sys_Time", "chown"], ["all"]) == ["CAP_SYS_TIME", "CAP_CHOWN"]
    assert adjust(["ALL"], ["net_raw"]) == [n for n in capabilities.KNOWN if n != "CAP_NET_RAW"]
    assert adjust([], ["ALL"]) == []
    assert adjust([], ["chown"], privileged=True) == list(capabilities.KNOWN)


@pytest.mark.parametrize(
    ("adds", "drops", "message"),
    [
        (["foo"], [], 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        ([], ["cap_foo"], 'invalid CapDrop: unknown capability: "CAP_FOO"'),
    ],
)
@pytest.mark.parametrize("privileged", [True, False])
def test_bad_capabilities(
    adds: list[str], drops: list[str], message: str, privileged: bool
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        capabilities.adjust(adds, drops, privileged=privileged)


def test_a_capability_that_we_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "available", lambda: ("CAP_CHOWN",))
    with pytest.raises(
        InvalidArgument, match="capability not supported by your kernel or not avail"
    ):
        capabilities.adjust(["SYS_ADMIN"], [])
    assert capabilities.adjust(["ALL"], []) == ["CAP_CHOWN"]


def test_flags_default_to_those_of_docker() -> None:
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [RULE]}
    assert resolve(document)["flags"] == ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
