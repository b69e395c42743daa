"""Library: rtnetlink messages made by hand; the shim plugs containers with it, lifecycle makes
bridges.

Standard library only: a shim is forked for every container, and a general netlink library costs
12 to 20 MB and 140 ms of import. A socket belongs to the network namespace in which it was
opened, for good, whatever its thread enters later. Message layouts: linux/netlink.h,
linux/rtnetlink.h, linux/if_link.h.

Kernel errors are raised as OSError with the request's name, such as ``[Errno 17] RTM_NEWLINK
ve0: File exists``. Lengths are packed as 16 bit without a mask, so that one that does not fit
raises instead of turning the rest of a name into attributes (CVE-2021-43784).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

AF_BRIDGE = socket.AF_BRIDGE
IFF_UP, IFF_RUNNING = 0x1, 0x40
IFNAMSIZ = 16

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_STATS64, IFLA_NET_NS_FD = 12, 18, 20, 23, 28
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
VETH_INFO_PEER = 1
IFLA_VLAN_ID, IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 1, 1, 2
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 0x02

RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST, RTNH_F_ONLINK = 254, 3, 1, 4
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253

RECEIVE_BYTES = 64 * 1024
NAMES = {
    RTM_NEWLINK: "RTM_NEWLINK",
    RTM_DELLINK: "RTM_DELLINK",
    RTM_GETLINK: "RTM_GETLINK",
    RTM_SETLINK: "RTM_SETLINK",
    RTM_NEWADDR: "RTM_NEWADDR",
    RTM_DELADDR: "RTM_DELADDR",
    RTM_GETADDR: "RTM_GETADDR",
    RTM_NEWROUTE: "RTM_NEWROUTE",
    RTM_GETROUTE: "RTM_GETROUTE",
}


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    up: bool
    running: bool  # up, and what is sent will go out
    mtu: int
    mac: str
    kind: str
    master: int | None
    alias: str


@dataclass(frozen=True, slots=True)
class LinkState:
    index: int
    running: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """One interface's traffic as its namespace counts it."""

    name: str
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    flags: int
    body: bytes
    subject: str  # for the error text


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + (-length % 4)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) < IFNAMSIZ or b"\0" in encoded or b"/" in encoded:
        raise ValueError(f"not an interface name: {name!r}")
    return attribute(IFLA_IFNAME, encoded + b"\0")


def _mac(mac: str) -> bytes:
    value = bytes.fromhex(mac.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return attribute(IFLA_ADDRESS, value)


def _link_header(*, index: int = 0, up: bool = False, family: int = 0) -> bytes:
    flags = IFF_UP if up else 0
    return struct.pack("=BxHiII", family, 0, index, flags, flags)


def veth(
    *,
    name: str,
    peer: str,
    peer_namespace: int,
    peer_mac: str,
    mtu: int,
    master: int,
) -> Message:
    """A pair in one message: this side up and in its bridge, the other one in its namespace.

    The peer cannot be created up (ENOTCONN: it has no other side yet then); its owner does that.
    """
    other = (
        _link_header()
        + _name(peer)
        + _mac(peer_mac)
        + _u32(IFLA_MTU, mtu)
        + _u32(IFLA_NET_NS_FD, peer_namespace)
    )
    data = attribute(IFLA_INFO_DATA | NLA_F_NESTED, attribute(VETH_INFO_PEER | NLA_F_NESTED, other))
    body = (
        _link_header(up=True)
        + _name(name)
        + _u32(IFLA_MTU, mtu)
        + _u32(IFLA_MASTER, master)
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"veth") + data)
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def bridge(name: str, *, mac: str, mtu: int) -> Message:
    """A bridge with a MAC of its own: one taken from its ports would change with them."""
    body = (
        _link_header(up=True)
        + _name(name)
        + _mac(mac)
        + _u32(IFLA_MTU, mtu)
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"bridge"))
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def dummy(name: str) -> Message:
    """An interface that leads nowhere, for networks of containers among themselves."""
    return _new_link(_link_header(up=True) + _name(name), b"dummy", b"", name)


def vlan(name: str, *, parent: int, tag: int) -> Message:
    data = attribute(IFLA_VLAN_ID, struct.pack("=H", tag))
    body = _link_header(up=True) + _name(name) + _u32(IFLA_LINK, parent)
    return _new_link(body, b"vlan", data, name)


def macvlan(
    name: str, *, parent: int, namespace: int, mode: str, mac: str, mtu: int | None
) -> Message:
    body = _link_header() + _name(name) + _u32(IFLA_LINK, parent) + _mac(mac)
    body += (_u32(IFLA_MTU, mtu) if mtu else b"") + _u32(IFLA_NET_NS_FD, namespace)
    return _new_link(body, b"macvlan", _u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]), name)


def ipvlan(
    name: str, *, parent: int, namespace: int, mode: str, flag: str, mtu: int | None
) -> Message:
    """It has its parent's MAC."""
    body = _link_header() + _name(name) + _u32(IFLA_LINK, parent)
    body += (_u32(IFLA_MTU, mtu) if mtu else b"") + _u32(IFLA_NET_NS_FD, namespace)
    data = attribute(IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode]))
    data += attribute(IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag]))
    return _new_link(body, b"ipvlan", data, name)


def _new_link(body: bytes, kind: bytes, data: bytes, subject: str) -> Message:
    info = attribute(IFLA_INFO_KIND, kind)
    if data:
        info += attribute(IFLA_INFO_DATA | NLA_F_NESTED, data)
    body += attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, subject)


def set_up(index: int, subject: str = "") -> Message:
    return Message(RTM_NEWLINK, 0, _link_header(index=index, up=True), subject)


def set_mac(index: int, mac: str, subject: str = "") -> Message:
    return Message(RTM_NEWLINK, 0, _link_header(index=index) + _mac(mac), subject)


def move(index: int, namespace: int, name: str, subject: str = "") -> Message:
    """Into another namespace, with another name."""
    body = _link_header(index=index) + _u32(IFLA_NET_NS_FD, namespace) + _name(name)
    return Message(RTM_NEWLINK, 0, body, subject)


def set_mtu(index: int, mtu: int, subject: str = "") -> Message:
    return Message(RTM_NEWLINK, 0, _link_header(index=index) + _u32(IFLA_MTU, mtu), subject)


def set_alias(index: int, alias: str, subject: str = "") -> Message:
    body = _link_header(index=index) + attribute(IFLA_IFALIAS, alias.encode())
    return Message(RTM_NEWLINK, 0, body, subject)


def set_port(index: int, *, isolated: bool, hairpin: bool, subject: str = "") -> Message:
    """A bridge's port: ``isolated`` from other isolated ones, and able to send to itself."""
    options = attribute(IFLA_BRPORT_ISOLATED, bytes([isolated]))
    options += attribute(IFLA_BRPORT_MODE, bytes([hairpin]))
    body = _link_header(index=index, family=AF_BRIDGE)
    body += attribute(IFLA_PROTINFO | NLA_F_NESTED, options)
    return Message(RTM_SETLINK, 0, body, subject)


def delete_link(index: int, subject: str = "") -> Message:
    return Message(RTM_DELLINK, 0, _link_header(index=index), subject)


def add_address(index: int, address: str) -> Message:
    """``address`` has its prefix length; IPv6 goes without duplicate detection."""
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address)


def delete_address(index: int, address: str) -> Message:
    return _address(RTM_DELADDR, 0, index, address)


def _address(kind: int, flags: int, index: int, address: str) -> Message:
    interface = ip_interface(address)
    packed = interface.ip.packed
    body = attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    length = interface.network.prefixlen
    if interface.version == 4:
        family, options = socket.AF_INET, 0
        if length < 31:
            body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        family, options = socket.AF_INET6, IFA_F_NODAD
    header = struct.pack("=BBBBI", family, length, options, RT_SCOPE_UNIVERSE, index)
    return Message(kind, flags, header + body, address)


def add_route(index: int, destination: str, gateway: str | None) -> Message:
    """``destination`` is a network or "default"; without a gateway it is on the link itself.

    The gateway counts as on-link: it may lie outside the interface's own network (``--gateway``).
    """
    via = ip_address(gateway) if gateway else None
    if destination == "default":
        if via is None:
            raise ValueError("a default route needs a gateway")
        family, length, body = _family(via.version), 0, b""
    else:
        network = ip_network(destination)
        family, length = _family(network.version), network.prefixlen
        body = attribute(RTA_DST, network.network_address.packed)
    if via is not None:
        body += attribute(RTA_GATEWAY, via.packed)
    body += _u32(RTA_OIF, index)
    scope, flags = (RT_SCOPE_UNIVERSE, RTNH_F_ONLINK) if via else (RT_SCOPE_LINK, 0)
    header = struct.pack(
        "=BBBBBBBBI", family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, flags
    )
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, header + body, destination)


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


class Netlink:
    """One rtnetlink socket, in the namespace that the thread was in when it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *messages: Message) -> None:
        """Send all in one system call, done in order; the first failure is raised."""
        first = self._sequence + 1
        self._send(messages, NLM_F_REQUEST | NLM_F_ACK)
        failure: OSError | None = None
        waiting = len(messages)
        while waiting:
            for kind, sequence, payload in self._receive():
                if kind != NLMSG_ERROR or sequence < first:
                    continue  # the rest of a request that was given up
                waiting -= 1
                failure = failure or _failure(payload, messages[sequence - first])
        if failure:
            raise failure

    def link(self, name: str) -> Link | None:
        """Since Linux 6.8 asking also brings a pending change of the link's state into effect."""
        payload = self._link(name)
        return None if payload is None else _parse_link(payload)

    def state(self, name: str) -> LinkState | None:
        """``link`` without its attributes, of which there are some sixty."""
        payload = self._link(name)
        if payload is None:
            return None
        index, flags = struct.unpack_from("=iI", payload, 4)
        return LinkState(index, bool(flags & IFF_RUNNING))

    def _link(self, name: str) -> bytes | None:
        body = _link_header() + _name(name) + _u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        try:
            return next(self._query(Message(RTM_GETLINK, 0, body, name)))
        except OSError as error:
            if error.errno == 19:  # ENODEV
                return None
            raise

    def links(self) -> list[Link]:
        return [_parse_link(payload) for payload in self._dump(RTM_GETLINK, _link_header())]

    def counters(self) -> list[Counters]:
        found = []
        for payload in self._dump(RTM_GETLINK, _link_header()):
            fields = dict(attributes(payload[16:]))
            # struct rtnl_link_stats64 begins with these eight, in this order
            values = struct.unpack_from("=8Q", fields[IFLA_STATS64])
            found.append(Counters(_text(fields[IFLA_IFNAME]), *values))
        return found

    def addresses(self, index: int | None = None) -> list[str]:
        """Addresses with their prefix lengths, of one interface or of all."""
        found = []
        for payload in self._dump(RTM_GETADDR, b"\0" * 8):
            length, of = payload[1], struct.unpack_from("=I", payload, 4)[0]
            if index is not None and of != index:
                continue
            fields = dict(attributes(payload[8:]))
            packed = fields.get(IFA_LOCAL, fields.get(IFA_ADDRESS))
            if packed is not None:
                found.append(f"{ip_address(packed)}/{length}")
        return found

    def routes(self) -> list[tuple[str, int | None]]:
        """The main table, without default routes: destinations and interface indexes."""
        found = []
        for payload in self._dump(RTM_GETROUTE, b"\0" * 12):
            length, table = payload[1], payload[4]
            fields = dict(attributes(payload[12:]))
            if table != RT_TABLE_MAIN or RTA_DST not in fields or length == 0:
                continue
            oif = fields.get(RTA_OIF)
            index = struct.unpack("=I", oif)[0] if oif else None
            found.append((f"{ip_address(fields[RTA_DST])}/{length}", index))
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        return self._query(Message(kind, NLM_F_DUMP, body, "dump"))

    def _query(self, message: Message) -> Iterator[bytes]:
        """Payloads of the answer: one, or a dump's many."""
        self._send((message,), NLM_F_REQUEST)
        while True:
            for kind, sequence, payload in self._receive():
                if sequence != self._sequence or kind == NLMSG_DONE:
                    if sequence == self._sequence:
                        return
                    continue
                if kind == NLMSG_ERROR:
                    failure = _failure(payload, message)
                    if failure:
                        raise failure
                    return
                yield payload
            if message.flags != NLM_F_DUMP:
                return

    def _send(self, messages: tuple[Message, ...], flags: int) -> None:
        packed = bytearray()
        for message in messages:
            self._sequence += 1
            size = 16 + len(message.body)
            packed += struct.pack(
                "=IHHII", size, message.kind, message.flags | flags, self._sequence, 0
            )
            packed += message.body + b"\0" * (-size % 4)
        self._socket.send(packed)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        data = self._socket.recv(RECEIVE_BYTES)
        offset = 0
        while offset + 16 <= len(data):
            size, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
            if size < 16:
                return
            yield kind, sequence, data[offset + 16 : offset + size]
            offset += size + (-size % 4)


def _failure(payload: bytes, message: Message) -> OSError | None:
    number = -struct.unpack_from("=i", payload)[0]
    if number == 0:
        return None
    name = NAMES[message.kind]
    return OSError(number, f"{name} {message.subject}: {os.strerror(number)}")


def _parse_link(payload: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", payload, 4)
    fields = dict(attributes(payload[16:]))
    info = dict(attributes(fields.get(IFLA_LINKINFO, b"")))
    master = fields.get(IFLA_MASTER)
    return Link(
        index=index,
        name=_text(fields[IFLA_IFNAME]),
        up=bool(flags & IFF_UP),
        running=bool(flags & IFF_RUNNING),
        mtu=struct.unpack("=I", fields[IFLA_MTU])[0],
        mac=fields.get(IFLA_ADDRESS, b"").hex(":"),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        master=struct.unpack("=I", master)[0] if master else None,
        alias=_text(fields.get(IFLA_IFALIAS, b"")),
    )


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
