"""Library: leads 127.0.0.11 port 53 of a container to the port that its resolver really has.

Port 53 itself stays free for a DNS server of the container's own on 0.0.0.0, which could not bind
it otherwise. One nftables transaction of two rules, written by hand: libnftables and its context
would cost each shim a megabyte and 1.5 ms, and this costs 0.2 ms. Layouts:
linux/netfilter/nf_tables.h; all numbers in attributes are big-endian.
"""

from __future__ import annotations

import os
import socket
import struct

from common.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, attribute

NETLINK_NETFILTER = 12
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE = 0, 3, 6
NFPROTO_IPV4, NF_INET_LOCAL_OUT = 2, 3
NF_IP_PRI_NAT_DST = -100
TABLE = b"longshore_dns\0"
CHAIN = b"output\0"

# Attributes.
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_LIST_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_DATA_VALUE = 1
_NFT_REG_1, _NFT_REG_2 = 1, 2
_PAYLOAD_NETWORK, _PAYLOAD_TRANSPORT = 1, 2
_META_L4PROTO = 16
_NAT_DST = 1


def redirect(address: str, port: int) -> None:
    """In the caller's network namespace: ``address`` port 53 is ``address`` port ``port``."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    ) as connection:
        connection.send(_batch(socket.inet_aton(address), port))
        # Two acknowledged messages; an error of any other is reported as its own.
        for _ in range(2):
            _, kind = struct.unpack_from("=IH", data := connection.recv(8192))
            number = -struct.unpack_from("=i", data, 16)[0] if kind == 2 else 0
            if number:
                raise OSError(number, f"NFT_MSG_NEWRULE: {os.strerror(number)}")


def _batch(address: bytes, port: int) -> bytes:
    hook = _number(_HOOK_NUMBER, NF_INET_LOCAL_OUT)
    hook += attribute(_HOOK_PRIORITY, struct.pack(">i", NF_IP_PRI_NAT_DST))
    chain = attribute(_CHAIN_TABLE, TABLE) + attribute(_CHAIN_NAME, CHAIN)
    chain += attribute(_CHAIN_HOOK | NLA_F_NESTED, hook) + attribute(_CHAIN_TYPE, b"nat\0")
    messages = [
        _message(NFNL_MSG_BATCH_BEGIN, 0, 1, b"", resource=NFNL_SUBSYS_NFTABLES),
        _nft(NFT_MSG_NEWTABLE, NLM_F_CREATE, 2, attribute(_TABLE_NAME, TABLE)),
        _nft(NFT_MSG_NEWCHAIN, NLM_F_CREATE, 3, chain),
    ]
    for sequence, proto in ((4, socket.IPPROTO_UDP), (5, socket.IPPROTO_TCP)):
        rule = _rule(address, proto, port)
        flags = NLM_F_CREATE | 0x800 | NLM_F_ACK  # NLM_F_APPEND
        messages.append(_nft(NFT_MSG_NEWRULE, flags, sequence, rule))
    messages.append(_message(NFNL_MSG_BATCH_END, 0, 6, b"", resource=NFNL_SUBSYS_NFTABLES))
    return b"".join(messages)


def _rule(address: bytes, proto: int, port: int) -> bytes:
    expressions = (
        _payload(_PAYLOAD_NETWORK, offset=16, length=4),
        _equals(address),
        _expression(b"meta\0", _number(2, _META_L4PROTO) + _number(1, _NFT_REG_1)),
        _equals(bytes([proto])),
        _payload(_PAYLOAD_TRANSPORT, offset=2, length=2),
        _equals((53).to_bytes(2)),
        _immediate(_NFT_REG_1, address),
        _immediate(_NFT_REG_2, port.to_bytes(2)),
        _expression(
            b"nat\0",
            _number(1, _NAT_DST)
            + _number(2, NFPROTO_IPV4)
            + _number(3, _NFT_REG_1)
            + _number(5, _NFT_REG_2),
        ),
    )
    return (
        attribute(_RULE_TABLE, TABLE)
        + attribute(_RULE_CHAIN, CHAIN)
        + attribute(_RULE_EXPRESSIONS | NLA_F_NESTED, b"".join(expressions))
    )


def _payload(base: int, *, offset: int, length: int) -> bytes:
    values = (_NFT_REG_1, base, offset, length)
    return _expression(
        b"payload\0", b"".join(_number(at, value) for at, value in enumerate(values, 1))
    )


def _equals(value: bytes) -> bytes:
    data = attribute(3 | NLA_F_NESTED, attribute(_DATA_VALUE, value))
    return _expression(b"cmp\0", _number(1, _NFT_REG_1) + _number(2, 0) + data)


def _immediate(register: int, value: bytes) -> bytes:
    data = attribute(2 | NLA_F_NESTED, attribute(_DATA_VALUE, value))
    return _expression(b"immediate\0", _number(1, register) + data)


def _expression(name: bytes, data: bytes) -> bytes:
    body = attribute(_EXPRESSION_NAME, name) + attribute(_EXPRESSION_DATA | NLA_F_NESTED, data)
    return attribute(_LIST_ELEMENT | NLA_F_NESTED, body)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _nft(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, sequence, body, family=NFPROTO_IPV4)


def _message(
    kind: int, flags: int, sequence: int, body: bytes, *, family: int = 0, resource: int = 0
) -> bytes:
    payload = struct.pack(">BBH", family, 0, resource) + body
    size = 16 + len(payload)
    return struct.pack("=IHHII", size, kind, flags | NLM_F_REQUEST, sequence, 0) + payload
