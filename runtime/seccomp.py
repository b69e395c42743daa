"""Library: OCI seccomp rules → a BPF program, by libseccomp.

Compiling takes milliseconds and loads a library, so lifecycle does it once per profile and
``longshore-runtime`` once per container; a shim only installs the bytes. In front of libseccomp's
program stands a short one of ours. It judges calls that the profile names and this libseccomp does
not know; and a call newer than all that the profile names fails with ENOSYS, as on an older kernel,
because C libraries fall back on ENOSYS but not on EPERM (as runc, libcontainer/seccomp/patchbpf).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from runtime import syscalls
from runtime.errors import RuntimeFailure
from runtime.spec import Seccomp, SeccompArg, SeccompRule

# seccomp.h
SCMP_FLTATR_CTL_NNP = 3
SCMP_FLTATR_CTL_OPTIMIZE = 8
NR_SCMP_ERROR = -1
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
WITH_ERRNO = frozenset(["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"])
# Under these an unknown call works, or is somebody else's to answer: no ENOSYS.
PERMISSIVE = frozenset(["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
FLAGS = {
    # Of one thread there is nothing to synchronise.
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": syscalls.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}
# linux/audit.h: the kernel's values for the architecture of a system call; x32 has none of its own.
AUDIT_ARCH = {
    "x86": 0x40000003,
    "x86_64": 0xC000003E,
    "x32": 0xC000003E,
    "arm": 0x40000028,
    "aarch64": 0xC00000B7,
    "mips": 0x00000008,
    "mips64": 0x80000008,
    "mips64n32": 0xA0000008,
    "mipsel": 0x40000008,
    "mipsel64": 0xC0000008,
    "mipsel64n32": 0xE0000008,
    "ppc": 0x00000014,
    "ppc64": 0x80000015,
    "ppc64le": 0xC0000015,
    "riscv64": 0xC00000F3,
    "s390": 0x00000016,
    "s390x": 0x80000016,
    "loongarch64": 0xC0000102,
}
# asm-generic/unistd.h: calls that the libseccomp of a stable distribution may not know yet. Their
# numbers are the same on the architectures of COMMON_NUMBERS.
NEW_CALLS = {
    name: number
    for number, name in enumerate(
        (
            *("process_mrelease", "futex_waitv", "set_mempolicy_home_node", "cachestat"),
            *("fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue"),
            *("statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr"),
            *("lsm_list_modules", "mseal", "setxattrat", "getxattrat", "listxattrat"),
            *("removexattrat", "open_tree_attr", "file_getattr", "file_setattr"),
        ),
        448,
    )
}
COMMON_NUMBERS = frozenset(
    [
        *("x86", "x86_64", "arm", "aarch64", "ppc", "ppc64", "ppc64le"),
        *("riscv64", "s390", "s390x", "loongarch64"),
    ]
)
X32_SYSCALL_BIT = 0x40000000
MAX_ARGUMENT = 5
# linux/bpf_common.h: load a word of struct seccomp_data, compare, jump, return.
BPF_LD_W_ABS, BPF_JA, BPF_JEQ, BPF_JGT, BPF_JSET, BPF_RET = 0x20, 0x05, 0x15, 0x25, 0x45, 0x06
OFFSET_NR, OFFSET_ARCH = 0, 4
Instruction = tuple[int, int, int, int]
RET_ENOSYS = ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS


class scmp_arg_cmp(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


def failure(message: str, code: int = 0) -> RuntimeFailure:
    return RuntimeFailure("seccomp", message, errno=code)


def compile(seccomp: Seccomp) -> bytes:  # noqa: A001 - what libseccomp and OCI call it
    """The program as an array of ``struct sock_filter``; raises RuntimeFailure."""
    _check_notify(seccomp)
    library = _load()
    default = action(seccomp.default_action, seccomp.default_errno_ret)
    architectures = [_architecture(name) for name in seccomp.architectures]
    with _filter(library, default) as context:
        for name in architectures:
            _check(library.seccomp_arch_add(context, _token(library, name)), f"architecture {name}")
        # The flags are given when the program is installed; libseccomp does not install it.
        _check(library.seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0), "no_new_privs")
        if sum(len(rule.names) for rule in seccomp.syscalls) > 32:
            # A binary tree instead of a list: 0.28 instead of 0.73 ms to install. libseccomp 2.5
            # builds a wrong one from no rules. Older libraries do not know the attribute.
            library.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for rule in seccomp.syscalls:
            _add_rule(library, context, rule, default)
        program = _export(library, context)
    return _prefix(library, seccomp, architectures, default) + program


def flags(seccomp: Seccomp) -> int:
    """The flags of seccomp(2) that go with the compiled program."""
    value = 0
    for name in seccomp.flags:
        if name not in FLAGS:
            raise failure(f"seccomp flag {name} is not known")
        value |= FLAGS[name]
    if any(rule.action == "SCMP_ACT_NOTIFY" for rule in seccomp.syscalls):
        value |= syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
    return value


def install(bpf: bytes, flags: int = 0) -> int:
    """In the child: from here on the program decides. The answer is the listener, if asked for.

    Needs CAP_SYS_ADMIN or no_new_privs.
    """
    return syscalls.seccomp_filter(bpf, flags)


def action(name: str, errno_ret: int | None) -> int:
    if name not in ACTIONS:
        raise failure(f"string {name} is not a valid action for seccomp")
    if name not in WITH_ERRNO:
        return ACTIONS[name]
    return ACTIONS[name] | (errno.EPERM if errno_ret is None else errno_ret & 0xFFFF)


def _check_notify(seccomp: Seccomp) -> None:
    if seccomp.default_action == "SCMP_ACT_NOTIFY":
        raise failure("SCMP_ACT_NOTIFY cannot be used as default action")
    for rule in seccomp.syscalls:
        # The child hands the listener over by a write, which would wait for the listener.
        if rule.action == "SCMP_ACT_NOTIFY" and "write" in rule.names:
            raise failure("SCMP_ACT_NOTIFY cannot be used for the write syscall")


def _architecture(name: str) -> str:
    """libseccomp's name for SCMP_ARCH_*."""
    short = name.removeprefix("SCMP_ARCH_").lower()
    if not name.startswith("SCMP_ARCH_") or short not in AUDIT_ARCH:
        raise failure(f"string {name} is not a valid arch for seccomp")
    return short


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise failure(
            "a seccomp profile is set, but libseccomp.so.2 cannot be loaded"
            " (Debian and Ubuntu: libseccomp2, Fedora: libseccomp, Alpine: libseccomp)"
        ) from error
    context, number, word = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
    for name, result, arguments in (
        ("seccomp_init", context, [word]),
        ("seccomp_release", None, [context]),
        ("seccomp_arch_add", number, [context, word]),
        ("seccomp_arch_native", word, []),
        ("seccomp_arch_resolve_name", word, [ctypes.c_char_p]),
        ("seccomp_attr_set", number, [context, number, word]),
        ("seccomp_syscall_resolve_name", number, [ctypes.c_char_p]),
        ("seccomp_syscall_resolve_name_arch", number, [word, ctypes.c_char_p]),
        ("seccomp_rule_add_array", number, [context, word, number, ctypes.c_uint, context]),
        ("seccomp_export_bpf", number, [context, number]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


@contextmanager
def _filter(library: ctypes.CDLL, default: int) -> Iterator[ctypes.c_void_p]:
    raw = library.seccomp_init(default)
    if not raw:
        raise failure("error creating filter: libseccomp refused the default action")
    context = ctypes.c_void_p(raw)
    try:
        yield context
    finally:
        library.seccomp_release(context)


def _check(result: int, what: str) -> None:
    """libseccomp answers with negative errno; EEXIST is an architecture named twice."""
    if result < 0 and result != -errno.EEXIST:
        raise failure(f"error setting seccomp {what}: {os.strerror(-result).lower()}", -result)


def _token(library: ctypes.CDLL, name: str) -> int:
    token = int(library.seccomp_arch_resolve_name(name.encode()))
    if not token:
        raise failure(f"architecture {name} is not known to this libseccomp")
    return token


def _add_rule(
    library: ctypes.CDLL, context: ctypes.c_void_p, rule: SeccompRule, default: int
) -> None:
    verdict = action(rule.action, rule.errno_ret)
    if verdict == default:
        return  # libseccomp refuses rules that change nothing
    comparisons = [_comparison(argument) for argument in rule.args]
    groups: list[list[scmp_arg_cmp]] = [comparisons]
    if any(count > 1 for count in Counter(each.arg for each in comparisons).values()):
        # libseccomp takes one comparison per argument; runc reads more as alternatives.
        groups = [[each] for each in comparisons]
    for name in rule.names:
        if not name:
            raise failure("empty string is not a valid syscall")
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == NR_SCMP_ERROR:
            continue  # newer than this libseccomp, or of another architecture
        for group in groups:
            array = (scmp_arg_cmp * len(group))(*group)
            _check(
                library.seccomp_rule_add_array(context, verdict, number, len(group), array),
                f"rule for syscall {name}",
            )


def _comparison(argument: SeccompArg) -> scmp_arg_cmp:
    if argument.op not in OPERATORS:
        raise failure(f"string {argument.op} is not a valid operator for seccomp")
    if not 0 <= argument.index <= MAX_ARGUMENT:
        raise failure(f"seccomp argument index {argument.index} is not within 0..{MAX_ARGUMENT}")
    return scmp_arg_cmp(argument.index, OPERATORS[argument.op], argument.value, argument.value_two)


def _export(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, fd), "program")
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _prefix(
    library: ctypes.CDLL, seccomp: Seccomp, architectures: Iterable[str], default: int
) -> bytes:
    by_token = {_token(library, name): name for name in AUDIT_ARCH if _known(library, name)}
    native = by_token.get(library.seccomp_arch_native())
    # libseccomp's filter always has the native architecture, named or not.
    names = list(dict.fromkeys([*([native] if native else []), *architectures]))
    enosys = seccomp.default_action not in PERMISSIVE and default != RET_ENOSYS
    stubs: dict[str, Stub] = {}
    for name in names:
        known = _numbers(library, _token(library, name), seccomp)
        unknown = {
            NEW_CALLS[call]: action(rule.action, rule.errno_ret)
            for rule in seccomp.syscalls
            for call in rule.names
            if name in COMMON_NUMBERS and call in NEW_CALLS and call not in known and not rule.args
        }
        highest = max([*known.values(), *unknown], default=0)
        if unknown or (enosys and highest > 0):
            stubs[name] = Stub(highest if enosys else None, unknown)
    return prefix_program(stubs)


def _numbers(library: ctypes.CDLL, token: int, seccomp: Seccomp) -> dict[str, int]:
    """The profile's calls that libseccomp knows; below 0 are those of other architectures."""
    numbers = {
        call: int(library.seccomp_syscall_resolve_name_arch(token, call.encode()))
        for rule in seccomp.syscalls
        for call in rule.names
    }
    return {call: number for call, number in numbers.items() if number != NR_SCMP_ERROR}


def _known(library: ctypes.CDLL, name: str) -> bool:
    return bool(library.seccomp_arch_resolve_name(name.encode()))


@dataclass(frozen=True, slots=True)
class Stub:
    """What is decided before libseccomp's program runs, for one architecture."""

    highest: int | None  # above it all is ENOSYS; None: nothing is
    verdicts: Mapping[int, int]  # number → action


def prefix_program(stubs: Mapping[str, Stub]) -> bytes:
    """One section per kernel architecture; what no section decides goes on to what follows."""
    by_audit: dict[int, dict[str, Stub]] = {}
    for name, stub in stubs.items():
        by_audit.setdefault(AUDIT_ARCH[name], {})[name] = stub
    sections = [_section(audit, group) for audit, group in by_audit.items()]
    program: list[Instruction] = []
    remaining = sum(map(len, sections))
    for section in sections:
        for index, (code, jump_true, jump_false, value) in enumerate(section):
            if code == BPF_JA:  # always to the end of the whole prefix
                value = remaining - index - 1
            program.append((code, jump_true, jump_false, value))
        remaining -= len(section)
    return b"".join(struct.pack("=HBBI", *each) for each in program)


def _section(audit: int, group: Mapping[str, Stub]) -> list[Instruction]:
    body: list[Instruction] = [(BPF_LD_W_ABS, 0, 0, OFFSET_NR)]
    if "x32" in group or "x86_64" in group:
        # One architecture to the kernel, told apart by a bit of the number.
        x86_64 = _decide(group.get("x86_64"))
        body.append((BPF_JSET, len(x86_64), 0, X32_SYSCALL_BIT))
        body += x86_64
        body += _decide(group.get("x32"))
    else:
        ((name, stub),) = group.items()
        if name in ("s390", "s390x") and stub.highest is not None:
            # The kernel enters calls that it does not know as number 0, once setup(2).
            body += [(BPF_JEQ, 0, 1, 0), (BPF_RET, 0, 0, RET_ENOSYS)]
        body += _decide(stub)
    # Loaded anew in each section: the body before may have replaced the accumulator.
    return [(BPF_LD_W_ABS, 0, 0, OFFSET_ARCH), (BPF_JEQ, 0, len(body), audit), *body]


def _decide(stub: Stub | None) -> list[Instruction]:
    instructions: list[Instruction] = []
    if stub is not None:
        for number, verdict in stub.verdicts.items():
            instructions += [(BPF_JEQ, 0, 1, number), (BPF_RET, 0, 0, verdict)]
        if stub.highest is not None:
            instructions += [(BPF_JGT, 0, 1, stub.highest), (BPF_RET, 0, 0, RET_ENOSYS)]
    return [*instructions, (BPF_JA, 0, 0, 0)]
