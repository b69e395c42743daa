"""Library of lifecycle: the program that ``--init`` puts in front of the container's.

No binary may be assumed on the host, no compiler, and no libc in the container, so the engine
brings the machine code itself: a static ELF file of about 700 bytes, written below the data root
at its first use and mounted read-only at /sbin/docker-init. It starts the program in a process
group of its own, forwards every signal to it, reaps whoever is left to it, and ends as the program
ends: what tini does for Docker. docs/decisions.md has why it is not the runtime's own process.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import atomicfile
from common.errors import NotSupported
from runtime.elf import EM_X86_64, program

PATH_INSIDE = "/sbin/docker-init"

_MESSAGE = b"docker-init: cannot exec: "
_ADDRESS = 0x400000

# x86-64, assembled; each line is one instruction, jumps name the label of a comment.
_X86_64 = (
    # _start: argc is at rsp, argv[2] at r12, the environment at r13; every signal is blocked
    "48 8b 04 24",  # mov rax,[rsp]
    "4c 8d 64 24 18",  # lea r12,[rsp+0x18]
    "4c 8d 6c c4 10",  # lea r13,[rsp+rax*8+0x10]
    "48 81 ec 10 20 00 00",  # sub rsp,0x2010
    "48 c7 04 24 ff ff ff ff",  # mov [rsp],0xffffffffffffffff
    "e8 91 00 00 00",  # call set_mask
    "b8 39 00 00 00",  # mov eax,0x39
    "0f 05",  # syscall
    "85 c0",  # test eax,eax
    "0f 84 9c 00 00 00",  # je child
    "41 89 c6",  # mov r14d,eax
    "31 db",  # xor ebx,ebx
    "78 74",  # js give_up
    # wait: rt_sigtimedwait without a timeout; what comes, but SIGCHLD, goes to the program
    "48 89 e7",  # mov rdi,rsp
    "31 f6",  # xor esi,esi
    "31 d2",  # xor edx,edx
    "41 ba 08 00 00 00",  # mov r10d,0x8
    "b8 80 00 00 00",  # mov eax,0x80
    "0f 05",  # syscall
    "85 c0",  # test eax,eax
    "7e e8",  # jle wait
    "83 f8 11",  # cmp eax,0x11
    "74 0e",  # je reap
    "44 89 f7",  # mov edi,r14d
    "89 c6",  # mov esi,eax
    "b8 3e 00 00 00",  # mov eax,0x3e
    "0f 05",  # syscall
    "eb d5",  # jmp wait
    # reap: wait4(-1, WNOHANG), until nobody has ended
    "bf ff ff ff ff",  # mov edi,0xffffffff
    "48 8d 74 24 08",  # lea rsi,[rsp+0x8]
    "ba 01 00 00 00",  # mov edx,0x1
    "45 31 d2",  # xor r10d,r10d
    "b8 3d 00 00 00",  # mov eax,0x3d
    "0f 05",  # syscall
    "85 c0",  # test eax,eax
    "7e 0d",  # jle reaped
    "44 39 f0",  # cmp eax,r14d
    "75 de",  # jne reap
    "8b 6c 24 08",  # mov ebp,[rsp+0x8]
    "ff c3",  # inc ebx
    "eb d6",  # jmp reap
    # reaped: ends like the program: its code, or 128 and its signal
    "85 db",  # test ebx,ebx
    "74 a7",  # je wait
    "89 ef",  # mov edi,ebp
    "83 e7 7f",  # and edi,0x7f
    "74 08",  # je exited
    "81 c7 80 00 00 00",  # add edi,0x80
    "eb 05",  # jmp exit
    # exited:
    "89 ef",  # mov edi,ebp
    "c1 ef 08",  # shr edi,0x8
    # exit:
    "b8 e7 00 00 00",  # mov eax,0xe7
    "0f 05",  # syscall
    # give_up:
    "bf 01 00 00 00",  # mov edi,0x1
    "eb f2",  # jmp exit
    # set_mask: rt_sigprocmask(SIG_SETMASK), the mask at the caller's rsp
    "bf 02 00 00 00",  # mov edi,0x2
    "48 8d 74 24 08",  # lea rsi,[rsp+0x8]
    "31 d2",  # xor edx,edx
    "41 ba 08 00 00 00",  # mov r10d,0x8
    "b8 0e 00 00 00",  # mov eax,0xe
    "0f 05",  # syscall
    "c3",  # ret
    # child: a process group of its own, in front on the terminal, no signal blocked
    "31 ff",  # xor edi,edi
    "31 f6",  # xor esi,esi
    "b8 6d 00 00 00",  # mov eax,0x6d
    "0f 05",  # syscall
    "b8 27 00 00 00",  # mov eax,0x27
    "0f 05",  # syscall
    "89 44 24 08",  # mov [rsp+0x8],eax
    "31 ff",  # xor edi,edi
    "be 10 54 00 00",  # mov esi,0x5410
    "48 8d 54 24 08",  # lea rdx,[rsp+0x8]
    "b8 10 00 00 00",  # mov eax,0x10
    "0f 05",  # syscall
    "48 c7 04 24 00 00 00 00",  # mov [rsp],0x0
    "e8 b0 ff ff ff",  # call set_mask
    "bd 7f 00 00 00",  # mov ebp,0x7f
    "49 8b 3c 24",  # mov rdi,[r12]
    "48 85 ff",  # test rdi,rdi
    "74 9b",  # je give_up
    "48 89 f9",  # mov rcx,rdi
    # slash: a name with a slash in it is not looked for
    "8a 01",  # mov al,[rcx]
    "48 ff c1",  # inc rcx
    "3c 2f",  # cmp al,0x2f
    "0f 84 96 00 00 00",  # je direct
    "84 c0",  # test al,al
    "75 ef",  # jne slash
    "4c 89 eb",  # mov rbx,r13
    # variable: PATH= in the environment
    "48 8b 0b",  # mov rcx,[rbx]
    "48 83 c3 08",  # add rbx,0x8
    "48 85 c9",  # test rcx,rcx
    "0f 84 84 00 00 00",  # je failed
    "81 39 50 41 54 48",  # cmp [rcx],0x48544150
    "75 e8",  # jne variable
    "80 79 04 3d",  # cmp [rcx+0x4],0x3d
    "75 e2",  # jne variable
    "48 83 c1 05",  # add rcx,0x5
    # element: each directory of PATH, and the name
    "48 8d 7c 24 10",  # lea rdi,[rsp+0x10]
    "4c 8d 84 24 00 10 00 00",  # lea r8,[rsp+0x1000]
    # copy_directory:
    "8a 01",  # mov al,[rcx]
    "84 c0",  # test al,al
    "74 13",  # je directory_end
    "48 ff c1",  # inc rcx
    "3c 3a",  # cmp al,0x3a
    "74 0c",  # je directory_end
    "4c 39 c7",  # cmp rdi,r8
    "73 ee",  # jae copy_directory
    "88 07",  # mov [rdi],al
    "48 ff c7",  # inc rdi
    "eb e7",  # jmp copy_directory
    # directory_end:
    "88 c3",  # mov bl,al
    "48 8d 44 24 10",  # lea rax,[rsp+0x10]
    "48 39 c7",  # cmp rdi,rax
    "74 06",  # je name
    "c6 07 2f",  # mov [rdi],0x2f
    "48 ff c7",  # inc rdi
    # name:
    "49 8b 34 24",  # mov rsi,[r12]
    "4c 8d 84 24 00 20 00 00",  # lea r8,[rsp+0x2000]
    # copy_name:
    "8a 06",  # mov al,[rsi]
    "88 07",  # mov [rdi],al
    "48 ff c6",  # inc rsi
    "48 ff c7",  # inc rdi
    "4c 39 c7",  # cmp rdi,r8
    "73 14",  # jae next
    "84 c0",  # test al,al
    "75 ed",  # jne copy_name
    "49 89 cf",  # mov r15,rcx
    "48 8d 7c 24 10",  # lea rdi,[rsp+0x10]
    "e8 57 00 00 00",  # call execute
    "4c 89 f9",  # mov rcx,r15
    # next:
    "84 db",  # test bl,bl
    "75 95",  # jne element
    "eb 05",  # jmp failed
    # direct:
    "e8 49 00 00 00",  # call execute
    # failed: the name on stderr
    "49 8b 34 24",  # mov rsi,[r12]
    "48 c7 c2 ff ff ff ff",  # mov rdx,0xffffffffffffffff
    # length:
    "48 ff c2",  # inc rdx
    "80 3c 16 00",  # cmp [rsi+rdx*1],0x0
    "75 f7",  # jne length
    "c6 04 16 0a",  # mov [rsi+rdx*1],0xa
    "48 ff c2",  # inc rdx
    "52",  # push rdx
    "56",  # push rsi
    "48 8d 35 3d 00 00 00",  # lea rsi,[rip+0x3d]  (the message)
    "ba 1a 00 00 00",  # mov edx,0x1a
    "e8 0e 00 00 00",  # call write
    "5e",  # pop rsi
    "5a",  # pop rdx
    "e8 07 00 00 00",  # call write
    "89 ef",  # mov edi,ebp
    "e9 ad fe ff ff",  # jmp exit
    # write:
    "bf 02 00 00 00",  # mov edi,0x2
    "b8 01 00 00 00",  # mov eax,0x1
    "0f 05",  # syscall
    "c3",  # ret
    # execute: execve; EACCES makes the exit status 126 instead of 127
    "4c 89 e6",  # mov rsi,r12
    "4c 89 ea",  # mov rdx,r13
    "b8 3b 00 00 00",  # mov eax,0x3b
    "0f 05",  # syscall
    "83 f8 f3",  # cmp eax,0xfffffff3
    "75 05",  # jne executed
    "bd 7e 00 00 00",  # mov ebp,0x7e
    # executed:
    "c3",  # ret
)

_CODE = {"x86_64": (EM_X86_64, _X86_64)}


def install(directory: Path) -> Path:
    """The file, written if it is not there or not whole."""
    path = directory / "docker-init"
    content = elf(os.uname().machine)
    try:
        if path.read_bytes() == content:
            return path
    except FileNotFoundError:
        pass
    atomicfile.write(path, content, mode=0o755)
    return path


def elf(machine: str) -> bytes:
    """A program for Linux on ``machine``."""
    if machine not in _CODE:
        raise NotSupported(
            f"--init has no program for {machine} machines: give longshored one with --init-path"
        )
    number, lines = _CODE[machine]
    code = b"".join(bytes.fromhex(line) for line in lines) + _MESSAGE
    return program(number, _ADDRESS, code)
