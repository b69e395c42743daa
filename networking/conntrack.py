"""Library of lifecycle: forgets the connections that netfilter tracks for a container's address.

UDP only: a peer that goes on sending from the same port would be sent to the old container's
address for as long as it sends. TCP notices by itself. Layouts:
linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address

from common.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, attribute

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_DELETE = 1 << 8 | 2  # subsystem NFNL_SUBSYS_CTNETLINK
CTA_TUPLE_REPLY, CTA_FILTER = 2, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_NUM = 1, 3, 1
CTA_FILTER_REPLY_FLAGS = 2
FILTER_IP_SRC, FILTER_PROTO_NUM = 1 << 0, 1 << 3  # net/netfilter/nf_internals.h


def forget_udp(container_ip: str) -> None:
    """Drop the entries whose answers come from ``container_ip``; one walk of the kernel's table."""
    parsed = ip_address(container_ip)
    is_ipv6 = parsed.version == 6
    address = attribute(CTA_IP_V6_SRC if is_ipv6 else CTA_IP_V4_SRC, parsed.packed)
    proto = attribute(CTA_PROTO_NUM, bytes([socket.IPPROTO_UDP]))
    reply = attribute(CTA_TUPLE_IP | NLA_F_NESTED, address)
    reply += attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, proto)
    compared = struct.pack("=I", FILTER_IP_SRC | FILTER_PROTO_NUM)
    body = struct.pack(">BBH", socket.AF_INET6 if is_ipv6 else socket.AF_INET, 0, 0)
    body += attribute(CTA_TUPLE_REPLY | NLA_F_NESTED, reply)
    body += attribute(CTA_FILTER | NLA_F_NESTED, attribute(CTA_FILTER_REPLY_FLAGS, compared))
    _request(IPCTNL_MSG_CT_DELETE, body)


def _request(kind: int, body: bytes) -> None:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    ) as connection:
        flags = NLM_F_REQUEST | NLM_F_ACK
        connection.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        number = -struct.unpack_from("=i", connection.recv(4096), 16)[0]
    if number:
        raise OSError(number, f"IPCTNL_MSG_CT_DELETE: {os.strerror(number)}")
