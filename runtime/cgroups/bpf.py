"""Library: device policies of cgroup v2, as BPF_PROG_TYPE_CGROUP_DEVICE programs.

cgroup v2 has no devices controller; a program attached to the cgroup is asked for each open and
mknod. Run by whoever creates or updates a container's cgroup, as root. This file owns the bpf(2)
calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from runtime.cgroups.devices import ANY, Policy

# linux/bpf.h
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 1 << 1
BPF_F_REPLACE = 1 << 2
BPF_DEVCG_DEV = {"b": 1, "c": 2}
BPF_DEVCG_ACC = {"m": 1, "r": 2, "w": 4}

NR_bpf = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
ATTR_SIZE = 128

# Instruction classes and operations (Documentation/bpf/standardization/instruction-set.rst).
LDX_W = 0x61
AND32_K, AND32_X, RSH32_K, MOV32_K, MOV32_X = 0x54, 0x5C, 0x74, 0xB4, 0xBC
# The 32-bit jumps compare a device number as unsigned, whatever its top bit.
JEQ32_K, JNE32_K, JNE32_X = 0x16, 0x56, 0x5E
EXIT = 0x95
R0, R1, TYPE, ACCESS, MAJOR, MINOR = range(6)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def instruction(code: int, dst: int, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhI", code, dst | src << 4, offset, value & 0xFFFFFFFF)


def program(policy: Policy) -> bytes:
    """The policy as BPF; the context is ``struct bpf_cgroup_dev_ctx``, the answer 1 to allow.

    As in v1, an access is granted when one exception covers all of it, and refused, under
    allow-by-default, when one exception touches any of it.
    """
    verdict = int(not policy.default_allow)
    parts = [
        instruction(LDX_W, TYPE, R1, 0),
        instruction(MOV32_X, ACCESS, TYPE),
        instruction(AND32_K, TYPE, value=0xFFFF),
        instruction(RSH32_K, ACCESS, value=16),
        instruction(LDX_W, MAJOR, R1, 4),
        instruction(LDX_W, MINOR, R1, 8),
    ]
    for (kind, major, minor), access in policy.exceptions.items():
        parts += _block(BPF_DEVCG_DEV[kind], major, minor, _mask(access), verdict)
    parts += [instruction(MOV32_K, R0, value=1 - verdict), instruction(EXIT, 0)]
    return b"".join(parts)


def _mask(access: frozenset[str]) -> int:
    return sum(BPF_DEVCG_ACC[letter] for letter in access)


def _block(kind: int, major: int, minor: int, access: int, verdict: int) -> list[bytes]:
    """Tests that jump past the verdict when one fails; offsets are known once the length is."""
    tests: list[tuple[int, int, int, int]] = [(JNE32_K, TYPE, 0, kind)]
    tests += [(MOV32_X, R1, ACCESS, 0), (AND32_K, R1, 0, access)]
    tests.append((JNE32_X, R1, ACCESS, 0) if verdict else (JEQ32_K, R1, 0, 0))
    if major != ANY:
        tests.append((JNE32_K, MAJOR, 0, major))
    if minor != ANY:
        tests.append((JNE32_K, MINOR, 0, minor))
    block = []
    for index, (code, dst, src, value) in enumerate(tests):
        jumps = code in (JEQ32_K, JNE32_K, JNE32_X)
        # Past the remaining tests and the two instructions of the verdict.
        offset = len(tests) - index - 1 + 2 if jumps else 0
        block.append(instruction(code, dst, src, offset, value))
    return [*block, instruction(MOV32_K, R0, value=verdict), instruction(EXIT, 0)]


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2); the answer and the attributes as the kernel left them."""
    number = NR_bpf.get(platform.machine())
    if number is None:
        raise OSError(38, f"bpf: system call number unknown on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, ATTR_SIZE)
    result = _libc.syscall(ctypes.c_long(number), command, buffer, ctypes.c_uint(ATTR_SIZE))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf(2) command {command}: {os.strerror(code)}")
    return result, buffer.raw


def load(code: bytes) -> int:
    """A descriptor of the loaded program, owned by the caller."""
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQ",
        BPF_PROG_TYPE_CGROUP_DEVICE,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
    )
    return _bpf(BPF_PROG_LOAD, attributes)[0]


def attached(cgroup_fd: int) -> list[int]:
    """Ids of the device programs attached to this cgroup itself."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack(
        "=IIIIQII", cgroup_fd, BPF_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids), 0
    )
    _, answer = _bpf(BPF_PROG_QUERY, attributes)
    (count,) = struct.unpack_from("=I", answer, 24)
    return list(ids[:count])


def replace(directory: str, policy: Policy) -> None:
    """Make ``policy`` the one device program of the cgroup, with no moment without any."""
    cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old: list[int] = []
    new = -1
    try:
        new = load(program(policy))
        old = [_bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=I", n))[0] for n in attached(cgroup_fd)]
        flags = BPF_F_ALLOW_MULTI
        target = (cgroup_fd, new, BPF_CGROUP_DEVICE)
        if len(old) == 1:
            _bpf(BPF_PROG_ATTACH, struct.pack("=IIIII", *target, flags | BPF_F_REPLACE, old[0]))
            return
        # All attached programs must agree, so attaching first can only narrow for a moment.
        _bpf(BPF_PROG_ATTACH, struct.pack("=IIIII", *target, flags, 0))
        for fd in old:
            _bpf(BPF_PROG_DETACH, struct.pack("=IIIII", cgroup_fd, fd, BPF_CGROUP_DEVICE, 0, 0))
    finally:
        for fd in (cgroup_fd, new, *old):
            if fd >= 0:
                os.close(fd)
