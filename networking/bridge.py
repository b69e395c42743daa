"""Library of lifecycle: the bridge of a network, its addresses and its kernel settings.

Made with common/netlink.py rather than pyroute2, whose smallest import costs lifecycle 12 MB of
its 60. A bridge carries an interface alias, ``longshore:<exec root>:<network id>``: that is how
it is found again after a restart, told from other engines' ``br-…`` and from a second engine's,
and removed when no record knows it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import netlink
from common.errors import Conflict
from common.netlink import Link, Netlink
from common.netns import write_sysctls

IP6_FORWARD = Path("/proc/sys/net/ipv6/conf/all/forwarding")
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
BRIDGE_CALLS_IPTABLES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
ENDPOINT_PREFIX = "ve"


@dataclass(frozen=True, slots=True)
class Bridge:
    name: str
    owner: str  # the alias
    addresses: tuple[str, ...]  # the gateway's, with prefix length; none: the bridge has none
    mtu: int = 1500
    adopt: bool = False  # the administrator's own (--bridge, or bridge.name of one that exists)
    ipv6: bool = False  # containers use IPv6 on it, whether or not the host has an address there


def owner_of(exec_root: Path, network_id: str) -> str:
    return f"longshore:{exec_root}:{network_id}"


def ensure(host: Netlink, bridge: Bridge) -> Link:
    """Make the bridge, or adjust the one that is there; its containers stay connected."""
    link = host.link(bridge.name)
    created = link is None
    if link is None:
        mac = (b"\x02\x42" + secrets.token_bytes(4)).hex(":")
        host.execute(netlink.bridge(bridge.name, mac=mac, mtu=bridge.mtu))
        link = host.link(bridge.name)
        if link is None:
            raise Conflict(f"bridge {bridge.name} was removed while it was made")
    elif link.kind != "bridge" or (link.alias != bridge.owner and not bridge.adopt):
        raise Conflict(f"interface {bridge.name} exists and belongs to something else")
    try:
        _adjust(host, link, bridge, created=created)
    except OSError:
        if created:
            delete(host, bridge.name)
        raise
    return link


def _adjust(host: Netlink, link: Link, bridge: Bridge, *, created: bool) -> None:
    _write_settings(bridge)
    present = set(host.addresses(link.index))
    messages = [
        netlink.add_address(link.index, address)
        for address in bridge.addresses
        if address not in present
    ]
    if not bridge.adopt:
        if link.alias != bridge.owner:
            messages.append(netlink.set_alias(link.index, bridge.owner, bridge.name))
        if not created and link.mtu != bridge.mtu:
            messages.append(netlink.set_mtu(link.index, bridge.mtu, bridge.name))
        stale = {one for one in present if not one.startswith("fe80:")} - set(bridge.addresses)
        messages += [netlink.delete_address(link.index, address) for address in stale]
    messages.append(netlink.set_up(link.index, bridge.name))
    host.execute(*messages)


def _write_settings(bridge: Bridge) -> None:
    """``route_localnet`` lets answers to 127.0.0.1 in; the firewall's raw chain guards it.

    Nobody else can have the bridge's link-local address. While the kernel looks whether somebody
    has, for two seconds from its first port on, it asks for no neighbour on behalf of others, and
    what is forwarded to the containers waits.
    """
    ipv4, ipv6 = f"net/ipv4/conf/{bridge.name}", f"net/ipv6/conf/{bridge.name}"
    settings = {f"{ipv4}/route_localnet": "1", f"{ipv6}/accept_ra": "0"}
    if not bridge.adopt:
        settings[f"{ipv6}/accept_dad"] = "0"
        settings[f"{ipv6}/disable_ipv6"] = "0" if bridge.ipv6 else "1"
    write_sysctls(settings)


def delete(host: Netlink, name: str) -> None:
    """Gone already is success."""
    link = host.link(name)
    if link is not None:
        host.execute(netlink.delete_link(link.index, name))


def remove_leftovers(
    host: Netlink, exec_root: Path, known_owners: Iterable[str], known_endpoints: Iterable[str]
) -> list[str]:
    """Remove this engine's bridges and veths that no record knows; returns their names.

    A veth counts as this engine's when it has an endpoint's name and sits in one of its bridges.
    """
    prefix = owner_of(exec_root, "")
    owners, endpoints = set(known_owners), set(known_endpoints)
    links = host.links()
    ours = {link.index for link in links if link.alias.startswith(prefix)}
    leftovers = [
        link
        for link in links
        if (link.index in ours and link.alias not in owners)
        or (
            link.master in ours
            and link.name.startswith(ENDPOINT_PREFIX)
            and link.name not in endpoints
        )
    ]
    for link in leftovers:
        delete(host, link.name)
    return [link.name for link in leftovers]


def host_networks(host: Netlink) -> list[str]:
    """What the host itself can reach without a default route; bridges' own networks included."""
    return [*host.addresses(), *(destination for destination, _ in host.routes())]


def free_name(host: Netlink, candidates: Sequence[str], owner: str) -> str:
    """The first name that is free or already carries ``owner``."""
    for name in candidates:
        link = host.link(name)
        if link is None or link.alias == owner:
            return name
    raise Conflict(f"no free name for a bridge among {', '.join(candidates)}")


def enable_forwarding() -> bool:
    """Make the host forward IPv4; True if it did not before."""
    if IP_FORWARD.read_text().strip() == "1":
        return False
    IP_FORWARD.write_text("1")
    return True


def enable_forwarding6() -> bool:
    """Make the host forward IPv6; True if it did not before.

    A host that forwards no longer hears router advertisements, which may be where its own default
    route comes from: interfaces that heard them before go on doing so.
    """
    try:
        if IP6_FORWARD.read_text().strip() == "1":
            return False
    except FileNotFoundError:
        return False  # ipv6.disable=1
    for setting in IP6_FORWARD.parent.parent.glob("*/accept_ra"):
        if setting.read_text().strip() == "1" and setting.parent.name != "lo":
            setting.write_text("2")
    for name in ("default", "all"):
        (IP6_FORWARD.parent.parent / name / "forwarding").write_text("1")
    return True


def needs_hairpin() -> bool:
    """Whether a container needs a hairpin port to reach its own published ports.

    With br_netfilter on, the kernel applies DNAT to such a packet while it bridges it, and a bridge
    does not send a packet out of the port that it came in by.
    """
    try:
        return BRIDGE_CALLS_IPTABLES.read_text().strip() == "1"
    except FileNotFoundError:
        return False
