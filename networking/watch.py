"""Library of lifecycle: notices when somebody else takes parts of the engine's nftables table away.

``nft flush ruleset`` and firewalls' reloads do that. Lifecycle adds ``fileno()`` to its loop,
calls ``table_damaged()`` when it is readable, and on True ``Firewall.reapply()``. The kernel
reports every change on this socket, ending each transaction with a message that names the
process; our own are ignored by that. Layouts: linux/netfilter/nf_tables.h,
linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from common.netlink import attributes

NETLINK_NETFILTER = 12
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWGEN = 15
# DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM: in each of them attribute 1 is the table's name
DELETIONS = (2, 5, 8, 11, 14)
NFTA_TABLE_NAME = 1
NFTA_GEN_PROC_PID = 2
RECEIVE_BYTES = 256 * 1024


class TableWatch:
    def __init__(self, table: str) -> None:
        self._table = table.encode() + b"\0"
        self._damaged = False  # seen in a transaction whose author is not known yet
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        self._socket.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def table_damaged(self) -> bool:
        """Read all that is there; True if another process removed something of the table."""
        damaged = False
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return damaged
            except OSError as error:
                if error.errno != 105:  # ENOBUFS: messages were lost, so anything may have gone
                    raise
                damaged = True
                continue
            for message, body in _messages(data):
                damaged = self._read(message, body) or damaged

    def _read(self, message: int, body: bytes) -> bool:
        fields = dict(attributes(body[4:]))  # after struct nfgenmsg
        if message in DELETIONS:
            self._damaged |= fields.get(NFTA_TABLE_NAME) == self._table
            return False
        if message != NFT_MSG_NEWGEN:
            return False
        damaged, self._damaged = self._damaged, False
        author = fields.get(NFTA_GEN_PROC_PID)
        return damaged and (author is None or struct.unpack(">I", author)[0] != os.getpid())


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, offset)
        if size < 16:
            return
        if kind >> 8 == NFNL_SUBSYS_NFTABLES:
            yield kind & 0xFF, data[offset + 16 : offset + size]
        offset += size + (-size % 4)
