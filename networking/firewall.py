"""Library of lifecycle: the engine's one nftables table, ``inet longshore``.

The chains are static; networks and containers are elements of sets and maps, so that publishing
a port is one element (0.25 ms) and a host with a thousand ports still decides by one hash
lookup. Each element's comment is the id of the network or container that it belongs to.

    bridges             our bridges
    internal            those without a way out
    masqueraded         family . bridge: its containers appear as the host outside
    snat4, snat6        bridge → the address of the host that they appear as, where one was chosen
    pairs               "br . br" for each: traffic that returns to its own bridge
    icc                 likewise, where containers of one bridge may talk to each other
    open                family . bridge: everybody may connect to every port (nat-unprotected)
    routed              family . bridge: reached by routing, at published ports only (routed)
    published4, 6       container address . proto . port of those
    subnets4, subnets6  container subnets that are reached by published ports only
    reach4, reach6      subnet . interface from which it is reached all the same
    own4, own6          subnet . its bridge
    ports4, ports6      proto . port → container address . port, on any address of the host
    ports4_at, 6_at     host address . proto . port → container address . port

Only a drop is final in netfilter: what this table accepts, another engine's table may still drop
(networking/foreign.py). The chain ``admin`` is the administrator's: it sees forwarded packets
first, is created empty, and nothing here ever changes it again. An engine with another exec root
has a table of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InternalError
from common.paths import DEFAULT_EXEC_ROOT
from networking.nftables import Nftables

INTERFACE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")

SETS = {
    "bridges": "type ifname;",
    "internal": "type ifname;",
    "masqueraded": "type nf_proto . ifname;",
    "pairs": "type ifname . ifname;",
    "icc": "type ifname . ifname;",
    "open": "type nf_proto . ifname;",
    "routed": "type nf_proto . ifname;",
    "published4": "type ipv4_addr . inet_proto . inet_service;",
    "published6": "type ipv6_addr . inet_proto . inet_service;",
    "subnets4": "type ipv4_addr; flags interval;",
    "subnets6": "type ipv6_addr; flags interval;",
    "reach4": "type ipv4_addr . ifname; flags interval;",
    "reach6": "type ipv6_addr . ifname; flags interval;",
    "own4": "type ipv4_addr . ifname; flags interval;",
    "own6": "type ipv6_addr . ifname; flags interval;",
}
MAPS = {
    "ports4": "type inet_proto . inet_service : ipv4_addr . inet_service;",
    "ports6": "type inet_proto . inet_service : ipv6_addr . inet_service;",
    "ports4_at": "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
    "ports6_at": "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
    "snat4": "type ifname : ipv4_addr;",
    "snat6": "type ifname : ipv6_addr;",
}
ADMIN_CHAIN = "admin"

# Packets for 127.0.0.0/8 are let past the kernel's own check on our bridges (route_localnet, for
# answers to ports published there), and DNAT comes before that check on every interface; so nothing
# from outside may reach a loopback address or claim to come from one (moby#45610). Published
# ports are the only way in: nobody reaches a container by routing to its address past them.
RAW = """
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
    ip daddr @subnets4 ip daddr . iifname != @reach4 fib daddr type != local drop
    ip6 daddr @subnets6 ip6 daddr . iifname != @reach6 fib daddr type != local drop
"""
# ``established`` stands after the administrator's chain, whose drops should also end connections.
FORWARD = """
    jump admin
    ct state established,related accept
    iifname . oifname @icc accept
    iifname @internal drop
    oifname @internal drop
    oifname @bridges ct status dnat accept
    meta nfproto . oifname @open iifname . oifname != @pairs accept
    meta nfproto . oifname @routed iifname . oifname != @pairs jump routed_in
    oifname @bridges drop
    iifname @bridges accept
"""
ROUTED_IN = """
    meta l4proto { 1, 58 } accept # icmp, icmpv6
    ip daddr . meta l4proto . th dport @published4 accept
    ip6 daddr . meta l4proto . th dport @published6 accept
"""
# An IPv6 packet from ::1 or a link-local address never leaves its link: the shim's relay serves it.
PUBLISHED = """
    dnat ip to ip daddr . meta l4proto . th dport map @ports4_at
    dnat ip to meta l4proto . th dport map @ports4
    ip6 daddr { ::1, fe80::/10 } return
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6_at
    dnat ip6 to meta l4proto . th dport map @ports6
"""
# By number everywhere: names need /etc/protocols, which a small system does not have.
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
TO_PUBLISHED = "meta l4proto { 6, 17, 132 } fib daddr type local jump published\n"
# A container that reaches a neighbour, or itself, by a port of the host must get the answer from
# the host, and an answer to 127.0.0.1 has to come back to the host at all.
POSTROUTING = """
    ip saddr . oifname @own4 ct status dnat masquerade
    ip6 saddr . oifname @own6 ct status dnat masquerade
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    iifname . oifname @pairs return
    meta nfproto . iifname != @masqueraded return
    snat ip to iifname map @snat4
    snat ip6 to iifname map @snat6
    masquerade
"""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    network_id: str
    bridge: str
    subnets: tuple[str, ...]
    masquerade: bool = True
    icc: bool = True
    internal: bool = False
    mode4: str = "nat"  # gateway modes: nat, nat-unprotected, routed, isolated
    mode6: str = "nat"
    host_ips: tuple[str, ...] = ()  # what containers appear as outside, where it was chosen
    trusted: tuple[str, ...] = ()  # interfaces from which containers are reached directly


@dataclass(frozen=True, slots=True)
class PublishedPort:
    proto: str  # tcp, udp, sctp
    host_ip: str  # 0.0.0.0, ::: any address; "": the container's own, on a routed network
    host_port: int
    container_ip: str
    container_port: int


@dataclass(frozen=True, slots=True)
class Element:
    container: str  # the set or map that holds it
    key: str
    comment: str
    data: str = ""

    def add(self, table: str) -> str:
        value = f" : {self.data}" if self.data else ""
        body = f'{self.key} comment "{self.comment}"{value}'
        return f"add element inet {table} {self.container} {{ {body} }}\n"

    def delete(self, table: str) -> str:
        return f"delete element inet {table} {self.container} {{ {self.key} }}\n"


def table_name(exec_root: Path) -> str:
    if exec_root == DEFAULT_EXEC_ROOT:
        return "longshore"
    return f"longshore_{hashlib.sha256(bytes(exec_root)).hexdigest()[:8]}"


class Firewall:
    """What should be in the table, and the table; each change is one transaction."""

    def __init__(
        self,
        nft: Nftables,
        table: str,
        *,
        forwards_for_others: bool = True,
        forwards6_for_others: bool = True,
    ) -> None:
        """``forwards_for_others`` False: the host forwarded nothing until this engine made it.

        Packets that are neither from nor for containers are then dropped, as if it still did not.
        """
        self.table = table
        self._nft = nft
        self._others = ""
        if not forwards_for_others:
            self._others += "meta nfproto ipv4 drop\n"
        if not forwards6_for_others:
            self._others += "meta nfproto ipv6 drop\n"
        self._networks: dict[str, NetworkRules] = {}
        self._ports: dict[str, tuple[PublishedPort, ...]] = {}

    def drop_others6(self) -> None:
        """The host forwards IPv6 from now on, for containers only; see ``__init__``."""
        if "ipv6" not in self._others:
            self._others += "meta nfproto ipv6 drop\n"
            self.reapply()

    def sync(
        self,
        networks: Iterable[NetworkRules],
        ports: Mapping[str, Sequence[PublishedPort]],
    ) -> None:
        """Make the table what these say, at once: nothing slips through or is lost between."""
        self._networks = {rules.network_id: rules for rules in networks}
        self._ports = {container: tuple(found) for container, found in ports.items() if found}
        self.reapply()

    def reapply(self) -> None:
        """Make the table anew from what is known, also where somebody flushed the ruleset."""
        elements = [
            element for rules in self._networks.values() for element in _network_elements(rules)
        ]
        for container, ports in self._ports.items():
            elements += _port_elements(container, ports)
        # Two with one key would be refused together with all others; that must not end the engine.
        unique = {(element.container, element.key): element for element in reversed(elements)}
        added = (element.add(self.table) for element in unique.values())
        self._nft.run(self._base() + "".join(added))

    def add_network(self, rules: NetworkRules) -> None:
        self.remove_network(rules.network_id)
        self._networks[rules.network_id] = rules
        try:
            self._change(add=_network_elements(rules))
        except (InternalError, ValueError):
            del self._networks[rules.network_id]
            raise

    def remove_network(self, network_id: str) -> None:
        rules = self._networks.pop(network_id, None)
        if rules is not None:
            self._change(delete=_network_elements(rules))

    def add_ports(self, container_id: str, ports: Sequence[PublishedPort]) -> None:
        """Publish ``ports`` besides those that the container has."""
        before = self._ports.get(container_id, ())
        self._ports[container_id] = before + tuple(ports)
        try:
            self._change(add=_port_elements(container_id, ports))
        except InternalError:
            self._ports[container_id] = before
            raise

    def remove_ports(self, container_id: str) -> None:
        ports = self._ports.pop(container_id, ())
        self._change(delete=_port_elements(container_id, ports))

    def _change(self, *, add: Sequence[Element] = (), delete: Sequence[Element] = ()) -> None:
        """One transaction; where somebody took the table away it is made anew, change included."""
        commands = [element.add(self.table) for element in add]
        commands += [element.delete(self.table) for element in delete]
        if not commands:
            return
        try:
            self._nft.run("".join(commands))
        except InternalError:
            self.reapply()

    def _base(self) -> str:
        """The static part: created where it is missing, emptied and filled where it is not."""
        table = f"inet {self.table}"
        lines = [
            f"add table {table}",
            f"add chain {table} {ADMIN_CHAIN}",
            f"add chain {table} routed_in",
        ]
        for kind, declarations in (("set", SETS), ("map", MAPS)):
            for name, declaration in declarations.items():
                lines.append(f"add {kind} {table} {name} {{ {declaration} }}")
        chains = (
            ("raw", "type filter hook prerouting priority raw; policy accept;", RAW),
            ("published", "", PUBLISHED),
            (
                "prerouting",
                "type nat hook prerouting priority dstnat; policy accept;",
                TO_PUBLISHED,
            ),
            ("output", "type nat hook output priority -100; policy accept;", TO_PUBLISHED),
            (
                "postrouting",
                "type nat hook postrouting priority srcnat; policy accept;",
                POSTROUTING,
            ),
            (
                "forward",
                "type filter hook forward priority filter; policy accept;",
                FORWARD + self._others,
            ),
            ("routed_in", "", ROUTED_IN),
        )
        for name, hook, rules in chains:
            lines.append(f"add chain {table} {name}" + (f" {{ {hook} }}" if hook else ""))
            lines.append(f"flush chain {table} {name}")
            lines += [
                f"add rule {table} {name} {rule.strip()}" for rule in rules.strip().splitlines()
            ]
        lines += [f"flush set {table} {name}" for name in SETS]
        lines += [f"flush map {table} {name}" for name in MAPS]
        return "\n".join(lines) + "\n"


def _network_elements(rules: NetworkRules) -> list[Element]:
    if not INTERFACE_NAME.fullmatch(rules.bridge):
        raise ValueError(f"not an interface name for a firewall rule: {rules.bridge!r}")
    name, comment = f'"{rules.bridge}"', rules.network_id
    elements = [
        Element("bridges", name, comment),
        Element("pairs", f"{name} . {name}", comment),
    ]
    if rules.icc:
        elements.append(Element("icc", f"{name} . {name}", comment))
    if rules.internal:
        elements.append(Element("internal", name, comment))
    for family, mode in (("ipv4", rules.mode4), ("ipv6", rules.mode6)):
        if rules.masquerade and not rules.internal and mode != "routed":
            elements.append(Element("masqueraded", f"{family} . {name}", comment))
        if mode in ("routed", "nat-unprotected"):
            into = "routed" if mode == "routed" else "open"
            elements.append(Element(into, f"{family} . {name}", comment))
    elements += [
        Element(f"snat{_version(address)}", name, comment, address) for address in rules.host_ips
    ]
    for subnet in rules.subnets:
        elements += _subnet_elements(rules, subnet, comment)
    return elements


def _subnet_elements(rules: NetworkRules, subnet: str, comment: str) -> list[Element]:
    version = _version(subnet)
    elements = [Element(f"own{version}", f'{subnet} . "{rules.bridge}"', comment)]
    if (rules.mode6 if version == 6 else rules.mode4) in ("routed", "nat-unprotected"):
        return elements
    elements.append(Element(f"subnets{version}", subnet, comment))
    return elements + [
        Element(f"reach{version}", f'{subnet} . "{interface}"', comment)
        for interface in (rules.bridge, *rules.trusted)
    ]


def _port_elements(container_id: str, ports: Sequence[PublishedPort]) -> list[Element]:
    """Nothing for an IPv6 port of a container without IPv6: its shim relays."""
    elements = []
    for port in ports:
        version, proto = _version(port.container_ip), PROTOCOLS[port.proto]
        if not port.host_ip:
            key = f"{port.container_ip} . {proto} . {port.container_port}"
            elements.append(Element(f"published{version}", key, container_id))
            continue
        if _version(port.host_ip) != version:
            continue
        key, into = f"{proto} . {port.host_port}", f"ports{version}"
        if port.host_ip not in ("0.0.0.0", "::"):
            key, into = f"{port.host_ip} . {key}", f"ports{version}_at"
        data = f"{port.container_ip} . {port.container_port}"
        elements.append(Element(into, key, container_id, data))
    return elements


def _version(address: str) -> int:
    return 6 if ":" in address else 4
