"""Library: a container's connection to one network, and how it gets into the container.

Lifecycle makes the Endpoint and sends it in the start message (docs/architecture.md); the shim
plugs it once the container's namespaces exist. There is no unplugging at exit: the namespace
takes its side of the veth along, and the kernel the other one. ``unplug`` is for disconnecting
a running container.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common import netlink, netns
from common.netlink import LinkState, Netlink

CARRIER_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Route:
    destination: str
    gateway: str | None = None  # None: on the link itself


@dataclass(frozen=True, slots=True)
class Endpoint:
    bridge: str  # or, of a macvlan or ipvlan, the parent
    host_ifname: str  # the host's side of the veth; "" where there is none
    ifname: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]  # with prefix length
    gateway: str | None = None  # the default route; None where another endpoint has it
    gateway6: str | None = None
    isolated: bool = False  # no traffic between containers (enable_icc=false)
    hairpin: bool = False  # reaches itself by a published port although br_netfilter is on
    routes: tuple[Route, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)  # "net.ipv4.conf.IFNAME.…"
    kind: str = "veth"  # or macvlan, ipvlan; given: host_ifname exists, and is to be moved inside
    mode: str = ""  # of those
    flag: str = ""  # of ipvlan

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Endpoint:
        routes = tuple(Route(**route) for route in data.get("routes") or ())
        fields = {**data, "addresses": tuple(data["addresses"]), "routes": routes}
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def has_ipv6(self) -> bool:
        return any(":" in address for address in self.addresses)


def plug_all(pid: int, endpoints: Sequence[Endpoint]) -> None:
    """Give the namespace of ``pid`` its loopback and its endpoints.

    A failure may leave it half done; the end of the namespace cleans up.
    """
    _plug_all(pid, endpoints, loopback=True)


def plug_own(host: Netlink, endpoints: Sequence[Endpoint]) -> None:
    """``plug_all`` of the caller's own namespace; ``host`` was made before it entered that."""
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink() as inside:
            for endpoint in endpoints:
                _plug(host, inside, namespace, endpoint)
    finally:
        os.close(namespace)


def plug(pid: int, endpoint: Endpoint) -> None:
    """Connect a running container to one more network."""
    _plug_all(pid, [endpoint], loopback=False)


def plug_at(path: str, endpoint: Endpoint) -> None:
    """Connect the namespace that is mounted there."""
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink() as host, netns.entered(namespace), Netlink() as inside:
            _plug(host, inside, namespace, endpoint)
    finally:
        os.close(namespace)


def take_back(path: str, endpoint: Endpoint) -> None:
    """Move an interface that was given to where it came from; gone is success.

    The caller's namespace gets it.
    """
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netns.entered(namespace), Netlink() as inside:
            link = inside.link(endpoint.ifname)
            if link is not None:
                name = endpoint.host_ifname
                inside.execute(netlink.move(link.index, home, name, link.name))
    finally:
        os.close(home)
        os.close(namespace)


def _plug_all(pid: int, endpoints: Sequence[Endpoint], *, loopback: bool) -> None:
    namespace = netns.open_of(pid)
    try:
        with Netlink() as host, netns.entered(namespace), Netlink() as inside:
            if loopback:
                inside.execute(netlink.set_up(1, "lo"))  # always a namespace's first link
            for endpoint in endpoints:
                _plug(host, inside, namespace, endpoint)
    finally:
        os.close(namespace)


def take_gateway(pid: int, endpoint: Endpoint) -> None:
    """Move the default route of a running container to an endpoint that is plugged."""
    namespace = netns.open_of(pid)
    try:
        with netns.entered(namespace), Netlink() as inside:
            link = inside.link(endpoint.ifname)
            if link is not None:
                inside.execute(*_default_routes(link.index, endpoint))
    finally:
        os.close(namespace)


def take_gateway_at(path: str, endpoint: Endpoint) -> None:
    """The same in the namespace that is mounted there."""
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netns.entered(namespace), Netlink() as inside:
            inside.execute(*_default_routes(_index(endpoint.ifname), endpoint))
    finally:
        os.close(namespace)


def unplug(pid: int, endpoint: Endpoint) -> None:
    """Take the interface away; gone already is success. A veth goes from the host's side."""
    if endpoint.kind == "veth":
        unplug_veth(endpoint.host_ifname)
        return
    namespace = netns.open_of(pid)
    try:
        with netns.entered(namespace), Netlink() as inside:
            link = inside.link(endpoint.ifname)
            if link is not None:
                inside.execute(netlink.delete_link(link.index, link.name))
    finally:
        os.close(namespace)


def unplug_veth(host_ifname: str) -> None:
    with Netlink() as host:
        link = host.link(host_ifname)
        if link is not None:
            host.execute(netlink.delete_link(link.index, link.name))


def counters(pid: int) -> list[netlink.Counters]:
    """The traffic of a container's interfaces, without its loopback."""
    namespace = netns.open_of(pid)
    try:
        with netns.entered(namespace), Netlink() as inside:
            return [found for found in inside.counters() if found.name != "lo"]
    finally:
        os.close(namespace)


def _index(name: str) -> int:
    """By ioctl, in the caller's namespace: a netlink answer carries all of a link's counters."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # without a number before Python 3.13
        raise OSError(errno.ENODEV, f"interface {name}: {os.strerror(errno.ENODEV)}") from error


def _plug(host: Netlink, inside: Netlink, namespace: int, endpoint: Endpoint) -> None:
    """The thread is in ``namespace``, and each of the two sockets in its own."""
    if endpoint.kind == "given":
        _plug_given(host, inside, namespace, endpoint)
        return
    bridge = host.state(endpoint.bridge)
    if bridge is None:
        raise OSError(errno.ENODEV, f"interface {endpoint.bridge}: {os.strerror(errno.ENODEV)}")
    if endpoint.kind == "veth":
        _plug_veth(host, inside, namespace, endpoint, bridge)
        return
    if endpoint.kind == "macvlan":
        link = netlink.macvlan(
            endpoint.ifname,
            parent=bridge.index,
            namespace=namespace,
            mode=endpoint.mode,
            mac=endpoint.mac,
            mtu=endpoint.mtu or None,
        )
    else:
        link = netlink.ipvlan(
            endpoint.ifname,
            parent=bridge.index,
            namespace=namespace,
            mode=endpoint.mode,
            flag=endpoint.flag,
            mtu=endpoint.mtu or None,
        )
    host.execute(link)
    netns.write_sysctls(_interface_sysctls(endpoint))
    inside.execute(*inside_messages(_index(endpoint.ifname), endpoint))


def _plug_given(host: Netlink, inside: Netlink, namespace: int, endpoint: Endpoint) -> None:
    source = endpoint.host_ifname
    link = host.link(source)
    if link is None:
        raise OSError(errno.ENODEV, f'failed to get link by name "{source}": Link not found')
    host.execute(netlink.move(link.index, namespace, endpoint.ifname, source))
    netns.write_sysctls(_interface_sysctls(endpoint))
    index = _index(endpoint.ifname)
    if endpoint.mac and endpoint.mac != link.mac:
        inside.execute(netlink.set_mac(index, endpoint.mac, endpoint.ifname))
    inside.execute(*inside_messages(index, endpoint))


def veth_message(namespace: int, endpoint: Endpoint, bridge: LinkState) -> netlink.Message:
    return netlink.veth(
        name=endpoint.host_ifname,
        peer=endpoint.ifname,
        peer_namespace=namespace,
        peer_mac=endpoint.mac,
        mtu=endpoint.mtu,
        master=bridge.index,
    )


def _plug_veth(
    host: Netlink, inside: Netlink, namespace: int, endpoint: Endpoint, bridge: LinkState
) -> None:
    host.execute(veth_message(namespace, endpoint, bridge))
    if endpoint.isolated or endpoint.hairpin:
        _set_port(host, endpoint)
    netns.write_sysctls(_interface_sysctls(endpoint))
    inside.execute(*inside_messages(_index(endpoint.ifname), endpoint))
    if not bridge.running:
        _wait_for_carrier(host, endpoint)


def _wait_for_carrier(host: Netlink, endpoint: Endpoint) -> None:
    """A bridge without ports has no carrier, and drops packets until it noticed its first one.

    That takes the kernel up to some milliseconds, and what is lost then is an ARP request, which
    is repeated after a second only.
    """
    deadline = time.monotonic() + CARRIER_SECONDS
    while time.monotonic() < deadline:
        host.state(endpoint.host_ifname)
        bridge = host.state(endpoint.bridge)
        if bridge is None or bridge.running:
            return
        time.sleep(0.0005)


def _set_port(host: Netlink, endpoint: Endpoint) -> None:
    link = host.link(endpoint.host_ifname)
    if link is not None:
        flags = netlink.set_port(
            link.index, isolated=endpoint.isolated, hairpin=endpoint.hairpin, subject=link.name
        )
        host.execute(flags)


def _interface_sysctls(endpoint: Endpoint) -> dict[str, str]:
    """Written while the interface is down, so that not a single router advertisement is heard."""
    ipv6 = f"net/ipv6/conf/{endpoint.ifname}"
    keys = {f"{ipv6}/accept_ra": "0"} if endpoint.has_ipv6 else {f"{ipv6}/disable_ipv6": "1"}
    for key, value in endpoint.sysctls.items():
        # By parts, because an interface's name may have a dot in it.
        parts = [endpoint.ifname if part == "IFNAME" else part for part in key.split(".")]
        keys["/".join(parts)] = value
    return keys


def inside_messages(index: int, endpoint: Endpoint) -> list[netlink.Message]:
    messages = [netlink.add_address(index, address) for address in endpoint.addresses]
    messages.append(netlink.set_up(index, endpoint.ifname))
    messages += [
        netlink.add_route(index, route.destination, route.gateway) for route in endpoint.routes
    ]
    return messages + _default_routes(index, endpoint)


def _default_routes(index: int, endpoint: Endpoint) -> list[netlink.Message]:
    return [
        netlink.add_route(index, "default", gateway)
        for gateway in (endpoint.gateway, endpoint.gateway6)
        if gateway
    ]
