"""Library: a static program of our own as an ELF file (elf(5)), without a compiler or a linker."""

from __future__ import annotations

import struct
from collections.abc import Iterable

EM_X86_64 = 62
PAGE = 4096
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_PF_X, _PF_W, _PF_R = 1, 2, 4
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def program(
    machine: int, address: int, code: bytes, data: Iterable[tuple[int, bytes | bytearray]] = ()
) -> bytes:
    """``code`` is loaded behind the headers, which are at ``address``, and is where it starts.

    ``data`` are writable parts and their addresses; neither they nor the stack can be executed.
    """
    parts = list(data)
    count = len(parts) + 2
    start = _HEADER.size + count * _SEGMENT.size
    segments = [(_PT_LOAD, _PF_R | _PF_X, 0, address, start + len(code), PAGE)]
    body, offset = bytearray(code), start + len(code)
    for place, content in parts:
        body += bytes(-offset % PAGE)
        offset += -offset % PAGE
        segments.append((_PT_LOAD, _PF_R | _PF_W, offset, place, len(content), PAGE))
        body += content
        offset += len(content)
    segments.append((_PT_GNU_STACK, _PF_R | _PF_W, 0, 0, 0, 16))
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01",  # 64 bits, little-endian
        *(2, machine, 1, address + start),  # an executable, its entry
        *(_HEADER.size, 0, 0),  # program headers follow, no sections
        *(_HEADER.size, _SEGMENT.size, count, 0, 0, 0),
    )
    for kind, flags, at, place, size, alignment in segments:
        header += _SEGMENT.pack(kind, flags, at, place, place, size, size, alignment)
    return header + body
