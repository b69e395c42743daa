"""Library of lifecycle: the host's interface of a network.

That is its bridge, or the parent of a macvlan or ipvlan network where that had to be made.

Used by NetworkService (networks.py). ``delete`` takes the kernel tens of milliseconds, for which
nothing else has to wait: it is safe in a thread.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from dataclasses import replace
from pathlib import Path

from common import netlink, netns
from common.errors import InternalError, InvalidArgument, PermissionDenied
from common.ids import short
from common.netlink import Netlink
from lifecycle import network_rules as rules
from lifecycle.network_records import NetworkRecord
from networking import bridge
from networking.bridge import Bridge
from networking.firewall import INTERFACE_NAME

PARENT = "parent"
MACVLAN_MODE, IPVLAN_MODE, IPVLAN_FLAG = "macvlan_mode", "ipvlan_mode", "ipvlan_flag"
_VLAN = re.compile(r"(.+)\.([0-9]+)")
_CHOICES = {
    MACVLAN_MODE: ("bridge", "private", "vepa", "passthru"),
    IPVLAN_MODE: ("l2", "l3", "l3s"),
    IPVLAN_FLAG: ("bridge", "private", "vepa"),
}


def mode_of(record: NetworkRecord) -> str:
    option = MACVLAN_MODE if record.driver == "macvlan" else IPVLAN_MODE
    return record.options.get(option, "") or _CHOICES[option][0]


def flag_of(record: NetworkRecord) -> str:
    return record.options.get(IPVLAN_FLAG, "") or "bridge"


def without_gateway(record: NetworkRecord) -> tuple[int, ...]:
    """The families that need no address for a gateway."""
    if record.driver == "bridge":
        options = rules.bridge_options(record.options, record.mtu)
        modes = {4: options.mode4, 6: options.mode6}
        return tuple(version for version, mode in modes.items() if mode == "isolated")
    if record.is_remote:
        return ()  # its driver can say so
    is_layer3 = record.driver == "ipvlan" and mode_of(record) != "l2"
    return (4, 6) if record.internal or is_layer3 else ()


def chosen(record: NetworkRecord, default_mtu: int, host: Netlink) -> NetworkRecord:
    """``record`` with the name and the MTU of its interface; raises for options that are wrong."""
    if record.driver == "bridge":
        options = rules.bridge_options(record.options, default_mtu)
        name = options.bridge or f"br-{short(record.id)}"
        adopted = bool(options.bridge) and host.link(name) is not None
        return replace(record, bridge=name, adopted=adopted, mtu=options.mtu)
    if record.driver not in ("macvlan", "ipvlan"):
        return record
    for option, choices in _CHOICES.items():
        value = record.options.get(option, "")
        if value and value not in choices and option.startswith(record.driver):
            raise InvalidArgument(
                f"requested {record.driver} {option.partition('_')[2]} '{value}' is not valid, "
                f"'{choices[0]}' mode is the {record.driver} driver default"
            )
    parent = record.options.get(PARENT, "") or f"dm-{short(record.id)}"
    if not INTERFACE_NAME.fullmatch(parent):
        raise InvalidArgument(f"invalid interface name {parent!r}")
    if parent == "lo":
        raise InvalidArgument(f"loopback interface is not a valid {record.driver} parent link")
    return replace(
        record,
        bridge=parent,
        adopted=host.link(parent) is not None,
        internal=record.internal or not record.options.get(PARENT),
        mtu=rules.mtu(record.options, 0),
    )


def check_name(record: NetworkRecord, other: NetworkRecord) -> None:
    """Two networks must not share an interface."""
    if not record.bridge or record.bridge != other.bridge:
        return
    if record.driver == "bridge":
        raise PermissionDenied(
            f"cannot create network {record.id} ({record.bridge}): conflicts with network "
            f"{other.id} ({other.bridge}): networks have same bridge name"
        )
    raise InternalError(f"network {other.id} is already using parent interface {record.bridge}")


def make(host: Netlink, record: NetworkRecord, owner: str) -> None:
    if record.driver == "bridge":
        bridge.ensure(
            host,
            Bridge(
                name=record.bridge,
                owner=owner,
                addresses=_host_addresses(record),
                mtu=record.mtu,
                adopt=record.adopted,
                ipv6=bool(record.subnet6),
            ),
        )
    elif record.bridge and host.link(record.bridge) is None:
        _make_parent(host, record.bridge, owner)


def _host_addresses(record: NetworkRecord) -> tuple[str, ...]:
    options = rules.bridge_options(record.options, record.mtu)
    unwanted = {
        4: options.mode4 == "isolated" or options.inhibit_ipv4,
        6: options.mode6 == "isolated",
    }
    return tuple(
        address for address in record.bridge_addresses if not unwanted[6 if ":" in address else 4]
    )


def _make_parent(host: Netlink, name: str, owner: str) -> None:
    """A VLAN's interface for a name like eth0.10, else one that leads nowhere."""
    match = _VLAN.fullmatch(name)
    if match is None and not name.startswith("dm-"):
        raise InvalidArgument(
            f"invalid subinterface vlan name {name}, example formatting is eth0.10"
        )
    if match is None:
        _make_dead_end(host, name)
    else:
        parent, tag = host.link(match[1]), int(match[2])
        if parent is None:
            raise InvalidArgument(f"-o parent interface was not found on the host: {match[1]}")
        if not 0 < tag < 4095:
            raise InvalidArgument(f"vlan id must be between 1-4094, received: {tag}")
        try:
            host.execute(netlink.vlan(name, parent=parent.index, tag=tag))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise InternalError(f"failed to create {name} vlan link: {reason}") from error
    link = host.link(name)
    if link is not None:
        host.execute(netlink.set_alias(link.index, owner, name))


def _make_dead_end(host: Netlink, name: str) -> None:
    """A dummy interface, or a veth to nowhere where the kernel has none of those.

    A bridge without ports would not do: it has no carrier, and then nothing passes above it.
    """
    try:
        host.execute(netlink.dummy(name))
        return
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    peer = f"{name.removeprefix('dm-')}-dm"
    namespace = netns.open_of(os.getpid())
    try:
        mac = (b"\x02\x42" + secrets.token_bytes(4)).hex(":")
        pair = netlink.veth(
            name=name, peer=peer, peer_namespace=namespace, peer_mac=mac, mtu=1500, master=0
        )
        host.execute(pair)
    finally:
        os.close(namespace)
    link = host.link(peer)
    if link is not None:
        host.execute(netlink.set_up(link.index, peer))


def delete(record: NetworkRecord, exec_root: Path) -> None:
    """Only what this engine has made."""
    if not record.bridge:
        return
    with Netlink() as host:
        link = host.link(record.bridge)
        if link is not None and link.alias == bridge.owner_of(exec_root, record.id):
            host.execute(netlink.delete_link(link.index, link.name))
