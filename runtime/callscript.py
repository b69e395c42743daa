"""Library: a process that makes a list of system calls, and has nothing else in it.

What enters a container by a fork of Python takes along an interpreter, whose pages are copied one
by one as it touches them: 6 ms for an exec. A ``Script`` is the same as a program of its own: a
static ELF file in memory with some 90 bytes of machine code, the table of calls, and their data.
The code makes one call after the other; each says where its result goes and which call is next
if it succeeded, failed, or had one certain result. Nothing of ours is in that process's memory,
so nothing can be found there, and it opens no file but those in the table.

``spawn`` starts it as vfork does. Until it is a program of its own it has the caller's memory, so
it must not be seen by anybody who may trace: PID namespaces are for later.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from common import sealed
from runtime import elf, syscalls
from runtime.errors import RuntimeFailure

Failure = Callable[[int], RuntimeFailure]  # what an errno means where it happened

# x86-64, assembled; each line is one instruction. A record of the table, at rbx, is twelve words:
# the call's number and six arguments; where its result goes; a certain result, and the record
# that is next after it, after an error, and after all else.
_RUN = bytes.fromhex(
    "bb e0 00 50 00"  # mov ebx,TABLE+2*96
    # step:
    "48 8b 03"  # mov rax,[rbx]
    "48 8b 7b 08"  # mov rdi,[rbx+0x8]
    "48 8b 73 10"  # mov rsi,[rbx+0x10]
    "48 8b 53 18"  # mov rdx,[rbx+0x18]
    "4c 8b 53 20"  # mov r10,[rbx+0x20]
    "4c 8b 43 28"  # mov r8,[rbx+0x28]
    "4c 8b 4b 30"  # mov r9,[rbx+0x30]
    "0f 05"  # syscall
    "48 8b 4b 38"  # mov rcx,[rbx+0x38]
    "48 89 01"  # mov [rcx],rax
    "48 3b 43 40"  # cmp rax,[rbx+0x40]
    "74 0e"  # je equal
    "48 3d 01 f0 ff ff"  # cmp rax,-4095
    "73 0c"  # jae error
    "48 8b 5b 58"  # mov rbx,[rbx+0x58]
    "eb c8"  # jmp step
    # equal:
    "48 8b 5b 48"  # mov rbx,[rbx+0x48]
    "eb c2"  # jmp step
    # error: which record, and with what result
    "48 89 1c 25 00 00 50 00"  # mov [FAILED],rbx
    "48 89 04 25 08 00 50 00"  # mov [FAILED+8],rax
    "48 8b 5b 50"  # mov rbx,[rbx+0x50]
    "eb ac"  # jmp step
)
# spawn(clone_args, size, fd, argv, envp): clone3, and in the child execveat of fd. The child has
# the parent's memory and stack until then, and touches neither.
_SPAWN = bytes.fromhex(
    "41 89 d1"  # mov r9d,edx
    "49 89 ca"  # mov r10,rcx
    "b8 b3 01 00 00"  # mov eax,0x1b3
    "0f 05"  # syscall
    "85 c0"  # test eax,eax
    "74 01"  # je child
    "c3"  # ret
    # child:
    "44 89 cf"  # mov edi,r9d
    "48 8d 35 1f 00 00 00"  # lea rsi,[rip+0x1f]  (an empty string)
    "4c 89 d2"  # mov rdx,r10
    "4d 89 c2"  # mov r10,r8
    "41 b8 00 10 00 00"  # mov r8d,0x1000  (AT_EMPTY_PATH)
    "b8 42 01 00 00"  # mov eax,0x142
    "0f 05"  # syscall
    "bf 7f 00 00 00"  # mov edi,NOT_EXECUTED
    "b8 e7 00 00 00"  # mov eax,0xe7
    "0f 05"  # syscall
    "00"
)
SUPPORTED = platform.machine() == "x86_64"
NOT_EXECUTED = 127  # the exit status of a child whose execveat failed
# arch/x86/entry/syscalls/syscall_64.tbl
NR = syscalls.NR | {
    "read": 0,
    "write": 1,
    "ioctl": 16,
    "sendmsg": 46,
    "recvmsg": 47,
    "execve": 59,
    "fcntl": 72,
    "chdir": 80,
    "umask": 95,
    "setsid": 112,
    "setgroups": 116,
    "setresuid": 117,
    "setresgid": 119,
    "capset": 126,
    "prctl": 157,
    "sched_setaffinity": 203,
    "exit_group": 231,
    "openat": 257,
    "dup3": 292,
    "prlimit64": 302,
    "setns": 308,
    "close_range": syscalls.NR_close_range,
    "openat2": syscalls.NR_openat2,
    "faccessat2": syscalls.NR_faccessat2,
}

CODE, HEAD, DATA = 0x400000, 0x500000, 0x10000000  # addresses
FAILED, SCRATCH, TABLE = HEAD, HEAD + 16, HEAD + 32
_RECORD = struct.Struct("<12q")
# The first two records: report what failed, and exit. The script follows them.
END, EXIT = TABLE, TABLE + _RECORD.size
NEXT = 0
REPORT = struct.Struct("<2q")  # at FAILED: the record's address, the result
NEVER = 1 << 62  # no call's result

_ARGV, _ENVP = syscalls.string_vector([b"longshore-exec"]), syscalls.string_vector([])
_WORD = struct.Struct("<q")
_IOVEC = struct.Struct("<2Q")
_MESSAGE = struct.Struct("<QI4xQQQQi4x")  # msghdr
_RIGHTS = struct.Struct("<QIIi4x")  # cmsghdr and one descriptor
_RIGHTS_SIZE = 20
_STORE, _EQUAL, _ON_ERROR, _THEN = 7, 9, 10, 11  # words of a record
_PADDING = tuple(bytes(-size % 8) for size in range(8))
_ALL_SIGNALS = (1 << 64) - 1


class Label:
    """A place in the table that calls can go on at, also before it is known."""

    __slots__ = ("address", "wanted")

    def __init__(self) -> None:
        self.address = 0
        self.wanted: list[int] = []  # where in the table it is to be


class Script:
    """A call that fails ends the process, where it says nothing else; ``channel`` is told which."""

    def __init__(self, channel: int) -> None:
        self._table = bytearray()
        self._data = bytearray()
        self._failures: dict[int, Failure] = {}
        self.call("write", channel, FAILED, REPORT.size, on_error=EXIT)
        self.call("exit_group", 1)

    def data(self, content: bytes) -> int:
        """Its address; aligned as all types ask for."""
        data = self._data
        address = DATA + len(data)
        data += content
        data += _PADDING[len(data) & 7]
        return address

    def string(self, content: bytes) -> int:
        return self.data(content + b"\0")

    def call(
        self,
        name: str,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        e: int = 0,
        *,
        failure: Failure | None = None,
        on_error: Label | int = END,
        then: Label | int = 0,
        equal: tuple[int, Label | int] | None = None,
        store: int = SCRATCH,
    ) -> int:
        """The record's address; ``then`` of 0 is the next record, as is ``on_error`` of NEXT."""
        table = self._table
        offset = len(table)
        following = TABLE + offset + _RECORD.size
        value, target = NEVER, following
        if equal is not None:
            value, target = equal[0], self._target(equal[1], offset, _EQUAL)
        if on_error != END:
            on_error = self._target(on_error, offset, _ON_ERROR) or following
        if then:
            then = self._target(then, offset, _THEN)
        table += _RECORD.pack(
            NR[name], a, b, c, d, e, 0, store, value, target, on_error, then or following
        )
        if failure is not None:
            self._failures[TABLE + offset] = failure
        return TABLE + offset

    def _target(self, place: Label | int, offset: int, field: int) -> int:
        if isinstance(place, int):
            return place
        place.wanted.append(offset + 8 * field)
        return place.address

    def fail(self, failure: Failure) -> None:
        """A call that there is not, as the way to report a failure."""
        self.call("write", -1, failure=failure)

    def place(self, label: Label) -> None:
        """Here, before the next call."""
        label.address = TABLE + len(self._table)
        for offset in label.wanted:
            _WORD.pack_into(self._table, offset, label.address)

    def outgoing(self, data: int, size: int) -> tuple[int, int]:
        """For sendmsg: the address of a message with one descriptor, and where that goes."""
        rights = self.data(_RIGHTS.pack(_RIGHTS_SIZE, socket.SOL_SOCKET, socket.SCM_RIGHTS, 0))
        part = self.data(_IOVEC.pack(data, size))
        return self.data(_MESSAGE.pack(0, 0, part, 1, rights, _RIGHTS_SIZE, 0)), rights + 16

    def incoming(self) -> int:
        """For recvmsg: the address of a message that ``receive_into`` has yet to define."""
        return self.data(bytes(_MESSAGE.size))

    def receive_into(self, message: int, parts: Sequence[tuple[int, int]]) -> None:
        """Its content goes to these addresses, in parts of these sizes; it may have descriptors."""
        vector = self.data(b"".join(_IOVEC.pack(*each) for each in parts))
        rights = self.data(bytes(_RIGHTS.size))
        header = _MESSAGE.pack(0, 0, vector, len(parts), rights, _RIGHTS.size, 0)
        self._data[message - DATA : message - DATA + len(header)] = header

    def store(self, record: int, address: int) -> None:
        """The result of a call that was made before goes there."""
        _WORD.pack_into(self._table, record - TABLE + 8 * _STORE, address)

    def failure(self, report: bytes) -> RuntimeFailure:
        """What the process's report says, which is the container's word once it is inside."""
        if len(report) != REPORT.size:
            return RuntimeFailure("exec", "the process ended in disorder")
        address, result = REPORT.unpack(report)
        failure = self._failures.get(address)
        if failure is not None:
            return failure(-result)
        return RuntimeFailure.from_os("exec", OSError(-result, ""))

    def image(self) -> bytes:
        """The ELF file."""
        head = bytes(TABLE - HEAD) + self._table
        return elf.program(elf.EM_X86_64, CODE, _RUN, ((HEAD, head), (DATA, self._data)))


def spawn(image: bytes, *, cgroup_fd: int = -1) -> tuple[int, int]:
    """(pid, pidfd) of a process that runs the ELF file ``image``; returns when it does.

    What it is to have of the caller's descriptors is inheritable. It ends with ``NOT_EXECUTED`` if
    the kernel does not execute files in memory. Its OOM score is the caller to set: in a cgroup of
    a container's it is at first one that no kill takes.
    """
    function = spawn_function()
    pidfd = ctypes.c_int(-1)
    args = syscalls.clone_args(
        flags=syscalls.CLONE_VM | syscalls.CLONE_VFORK | syscalls.CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=17,  # SIGCHLD
    )
    if cgroup_fd >= 0:
        args.flags |= syscalls.CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    file = sealed.executable_file("exec", os.MFD_CLOEXEC)
    try:
        if os.write(file, image) != len(image):
            raise OSError(errno.ENOSPC, "no memory for the process's file")
        # A handler of ours must not run in the child, which has our memory.
        with _signals_blocked(), _spared_by_oom(cgroup_fd >= 0):
            pid = function(ctypes.byref(args), ctypes.sizeof(args), file, _ARGV, _ENVP)
    finally:
        os.close(file)
    if pid < 0:
        raise OSError(-pid, f"clone3: {os.strerror(-pid)}")
    os.set_inheritable(pidfd.value, False)
    return pid, pidfd.value


@functools.cache
def spawn_function() -> Callable[..., int]:
    """The machine code, mapped: one page of memory that all forked processes share."""
    prototype = ctypes.PYFUNCTYPE(
        *(ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int),
        *(ctypes.c_void_p, ctypes.c_void_p),
    )
    fd = os.memfd_create("spawn", os.MFD_CLOEXEC)
    try:
        os.write(fd, _SPAWN.ljust(elf.PAGE, b"\0"))
        return prototype(syscalls.map_executable(fd, elf.PAGE))
    finally:
        os.close(fd)


@contextmanager
def _spared_by_oom(wanted: bool) -> Iterator[None]:
    """A kill of the whole cgroup (memory.oom.group) takes who shares memory with the child: us."""
    if not wanted:
        yield
        return
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        before = file.read()
        with suppress(OSError):  # without CAP_SYS_RESOURCE, as in an outer container
            file.write(b"-1000")
        try:
            yield
        finally:
            file.write(before)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    before = syscalls.change_signal_mask(_ALL_SIGNALS)
    try:
        yield
    finally:
        syscalls.change_signal_mask(before)
