"""Library of lifecycle: other programs' firewall policies that stop containers' traffic.

In netfilter an accept in one table does not undo a drop in another. Docker Engine, ufw and some
distributions set the policy of iptables' FORWARD chain to DROP; nothing in our own table can help,
so the administrator is told. iptables-nft is seen through nftables, legacy iptables has no other
way than its own getsockopt (linux/netfilter_ipv4/ip_tables.h).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

from networking.nftables import Nftables

IP_TABLES_NAMES = Path("/proc/net/ip_tables_names")
IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES = 64, 65
NF_INET_FORWARD = 2
NF_DROP_VERDICT = -1  # -NF_DROP - 1
TABLE_NAME_BYTES = 32
INFO_BYTES = 84  # struct ipt_getinfo
ENTRIES_HEADER_BYTES = 40  # struct ipt_get_entries

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getsockopt.argtypes = (
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint32),
)
_libc.getsockopt.restype = ctypes.c_int


def foreign_policy_warnings(nft: Nftables, own_table: str) -> list[str]:
    """One sentence for each chain of somebody else that drops forwarded packets by default."""
    blockers = []
    for found in nft.query("list chains"):
        chain = found.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        if chain["family"] in ("ip", "inet") and chain["table"] != own_table:
            blockers.append(f"{chain['family']} {chain['table']} {chain['name']}")
    if _legacy_forward_drops():
        blockers.append("legacy iptables filter FORWARD")
    return [
        f"the firewall chain {blocker} has the policy drop: containers may be unable to reach "
        "other machines or be reached by them; accept their bridges' forwarded traffic there"
        for blocker in blockers
    ]


def _legacy_forward_drops() -> bool:
    try:
        tables = IP_TABLES_NAMES.read_text().split()
    except FileNotFoundError:
        return False
    if "filter" not in tables:
        return False
    try:
        return _legacy_verdict() == NF_DROP_VERDICT
    except OSError:
        return False  # the table went away between the two looks


def _legacy_verdict() -> int:
    """The verdict of the rule that stands for the FORWARD chain's policy."""
    name = b"filter".ljust(TABLE_NAME_BYTES, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as connection:
        info = _getsockopt(connection, IPT_SO_GET_INFO, name.ljust(INFO_BYTES, b"\0"))
        underflow = struct.unpack_from("=5I", info, 56)[NF_INET_FORWARD]
        size = struct.unpack_from("=I", info, 80)[0]
        request = (name + struct.pack("=I", size)).ljust(ENTRIES_HEADER_BYTES + size, b"\0")
        entries = _getsockopt(connection, IPT_SO_GET_ENTRIES, request)
    entry = ENTRIES_HEADER_BYTES + underflow
    target = entry + struct.unpack_from("=H", entries, entry + 88)[0]
    verdict: int = struct.unpack_from("=i", entries, target + 32)[0]
    return verdict


def _getsockopt(connection: socket.socket, option: int, value: bytes) -> bytes:
    """socket.getsockopt with an argument to go in, which Python's cannot."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if _libc.getsockopt(connection.fileno(), socket.SOL_IP, option, buffer, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"getsockopt: {os.strerror(number)}")
    return buffer.raw[: length.value]
