"""Library of lifecycle: containers' connections to networks, their addresses and published ports.

Used by NetworkService (networks.py) only. What is here is what running containers hold: a record
per endpoint, an address of the network's pool, and elements in the firewall. The interfaces
themselves are the shim's to make (common/endpoint.py), and the kernel's to remove.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_interface

from common.endpoint import Endpoint, Route
from common.errors import EngineError, InternalError, PermissionDenied
from common.ids import new_id, short
from lifecycle import network_links
from lifecycle import network_rules as rules
from lifecycle.name_files import NameFiles
from lifecycle.network_pools import Pools
from lifecycle.network_records import (
    EndpointRecord,
    EndpointRequest,
    GivenEndpoint,
    NetworkRecord,
    NetworkStore,
)
from networking import bridge, conntrack
from networking.firewall import Firewall, PublishedPort
from networking.ipam import Pool, mac_of
from networking.ports import BoundPort, PortAllocator, PortBinding

log = logging.getLogger(__name__)

_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def dns_names(
    network: NetworkRecord, container_id: str, container_name: str, request: EndpointRequest
) -> tuple[str, ...]:
    """What other containers on the network may call this one."""
    if not network.user_defined:
        return ()
    names = (container_name, *request.aliases, short(container_id), request.hostname)
    return tuple(dict.fromkeys(filter(None, names)))


class Endpoints:
    def __init__(
        self,
        store: NetworkStore,
        pools: dict[str, Pools],
        ports: PortAllocator,
        names: NameFiles,
    ) -> None:
        self._store = store
        self._pools = pools
        self._ports = ports
        self._names = names
        self.firewall: Firewall | None = None  # set at start; None with --iptables=false

    def restore(self, live: Collection[str], known: Collection[str] | None) -> None:
        """Take the addresses and ports of containers that run, forget those of the others."""
        for record in list(self._store.endpoints.values()):
            is_known = known is None or record.id in known or record.is_gateway
            is_live = record.container_id in live and record.network_id in self._store.networks
            if not is_live or not is_known:
                self._store.remove_endpoint(record.id)
                continue
            if record.network_id in self._pools:
                for address in record.addresses:
                    self._pools[record.network_id].reserve(address)
        for container_id, ports in list(self._store.ports.items()):
            targets = self.port_targets(container_id) if container_id in live else []
            if not targets:
                # It has ended, or the connect that published them was never finished.
                self._store.remove_ports(container_id)
                continue
            led = _led_to(ports, targets)
            if led != tuple(ports):
                self._store.save_ports(container_id, led)
            for port in led:
                if port.host_ip:
                    self._ports.hold(port.proto, port.host_ip, port.host_port)

    def connect(
        self,
        network: NetworkRecord,
        container_id: str,
        name: str,
        request: EndpointRequest,
        given: GivenEndpoint | None = None,
    ) -> EndpointRecord:
        rules.check_endpoint(network, request)
        others = self._store.of_container(container_id)
        if any(other.network_id == network.id for other in others):
            raise PermissionDenied(
                f"endpoint with name {name} already exists in network {network.name}"
            )
        record = EndpointRecord(
            id=given.id if given else new_id(),
            network_id=network.id,
            network_name=network.name,
            container_id=container_id,
            container_name=name,
            aliases=request.aliases,
            gw_priority=request.gw_priority,
            is_gateway=given is not None and given.is_gateway,
        )
        if network.driver not in ("host", "null"):
            record = self._with_address(record, network, request, others, given)
        try:
            self._store.save_endpoint(record)
            self._names.add(record)
        except Exception:
            self._forget(record)
            raise
        return record

    def _with_address(
        self,
        record: EndpointRecord,
        network: NetworkRecord,
        request: EndpointRequest,
        others: Iterable[EndpointRecord],
        given: GivenEndpoint | None,
    ) -> EndpointRecord:
        shares_mac = network.driver == "ipvlan"
        if shares_mac and request.mac:
            raise InternalError("ipvlan interfaces do not support custom mac address assignment")
        record = replace(
            record,
            link_local=request.link_local,
            links=request.links,
            sysctls=rules.endpoint_sysctls(request.driver_opts),
        )
        if given is None or given.dns:
            names = dns_names(network, record.container_id, record.container_name, request)
            record = replace(record, dns_names=names)
        if network.id in self._pools:
            record = self._from_pools(record, network, request)
        elif given is not None:
            record = with_addresses(record, given.addresses)
        mac = request.mac.lower() or (given.mac if given else "")
        if network.is_remote:
            # What else there is to know its driver says when the container joins.
            return replace(record, mac=mac)
        is_bridge = network.driver == "bridge"
        return replace(
            record,
            ifname=_interface_name(network, request, others),
            host_ifname=bridge.ENDPOINT_PREFIX + record.id[:11] if is_bridge else "",
            mac="" if shares_mac else mac or mac_of(record.ip_address or record.ip6_address),
            gateway="" if network.internal else network.gateway,
            gateway6="" if network.internal else network.gateway6,
        )

    def _from_pools(
        self, record: EndpointRecord, network: NetworkRecord, request: EndpointRequest
    ) -> EndpointRecord:
        pools = self._pools[network.id]
        address, address6 = self._take(network, pools.v4, request.ipv4), ""
        try:
            address6 = self._take(network, pools.v6, request.ipv6)
        except EngineError:
            if address:
                pools.release(address)
            raise
        return replace(
            record,
            ip_address=address,
            ip_prefix_length=pools.v4.prefix_length if pools.v4 else 0,
            ip6_address=address6,
            ip6_prefix_length=pools.v6.prefix_length if pools.v6 else 0,
        )

    def _take(self, network: NetworkRecord, pool: Pool | None, wanted: str) -> str:
        if pool is None:
            return ""
        if wanted:
            pool.reserve(wanted)
            return wanted
        try:
            return pool.allocate()
        except InternalError as error:
            raise InternalError(f"{error}: {network.name} ({network.id})") from error

    def disconnect(self, record: EndpointRecord) -> None:
        """Forget one endpoint; ports that lead to its addresses move to the next gateway's."""
        self._forget(record)
        self.follow_gateway(record.container_id)

    def release(self, container_id: str) -> list[EndpointRecord]:
        """Forget all that the container has; returns the endpoints that it had."""
        self.unpublish(container_id)
        records = self._store.of_container(container_id)
        for record in records:
            self._forget(record)
        return records

    def update(self, record: EndpointRecord) -> None:
        self._names.remove(self._store.endpoints[record.id])
        self._store.save_endpoint(record)
        self._names.add(record)

    def rename(self, container_id: str, name: str) -> None:
        before = self._store.of_container(container_id)
        self._store.rename_container(container_id, name)
        for record in before:
            self._names.remove(record)
        for record in self._store.of_container(container_id):
            self._names.add(record)

    def _forget(self, record: EndpointRecord) -> None:
        self._store.remove_endpoint(record.id)
        self._names.remove(record)
        if record.network_id in self._pools:
            for address in record.addresses:
                self._pools[record.network_id].release(address)

    def gateway_of(self, container_id: str, *, version: int = 4) -> EndpointRecord | None:
        """The endpoint that has a family's default route, chosen as Docker does.

        The highest priority first, then the network's name in lexical order.
        """
        candidates = [
            one for one in self._store.of_container(container_id) if self._leads_out(one, version)
        ]
        return min(candidates, key=lambda one: (-one.gw_priority, one.network_name), default=None)

    def _leads_out(self, record: EndpointRecord, version: int) -> bool:
        if record.gateway6 if version == 6 else record.gateway:
            return True
        if any(route[0] == _EVERYWHERE[version] for route in record.routes):
            return True
        network = self._store.networks[record.network_id]
        address = record.ip6_address if version == 6 else record.ip_address
        return bool(address) and _is_layer3(network) and not network.internal

    def leads_out(self, container_id: str) -> bool:
        """Whether a network that the container is meant to be on does."""
        return any(
            self._leads_out(record, version)
            for record in self._store.of_container(container_id)
            for version in (4, 6)
            if not record.is_gateway
        )

    def for_shim(self, container_id: str) -> list[Endpoint]:
        """What the shim has to plug, once ports are published; nothing for host and none."""
        return [
            self.plan(record)
            for record in self._store.of_container(container_id)
            if record.addresses and not self._store.networks[record.network_id].is_remote
        ]

    def plan(self, record: EndpointRecord) -> Endpoint:
        """One endpoint as the shim plugs it, with the default routes that it has now."""
        network = self._store.networks[record.network_id]
        has4 = self.gateway_of(record.container_id) == record
        has6 = self.gateway_of(record.container_id, version=6) == record
        plan = Endpoint(
            bridge=network.bridge,
            host_ifname=record.host_ifname,
            ifname=record.ifname,
            mac=record.mac,
            mtu=network.mtu,
            addresses=record.prefixed_addresses + _prefixed(record.link_local),
            gateway=(record.gateway or None) if has4 else None,
            gateway6=(record.gateway6 or None) if has6 else None,
            sysctls=record.sysctls,
        )
        if network.driver == "bridge":
            options = rules.bridge_options(network.options, network.mtu)
            hairpin = record.container_id in self._store.ports and bridge.needs_hairpin()
            return replace(plan, isolated=not options.icc, hairpin=hairpin)
        if network.is_remote:
            given = tuple(Route(target, hop or None) for target, hop in record.routes)
            return replace(plan, host_ifname=record.source, routes=given, kind="given")
        routes = []
        if _is_layer3(network):
            routes = [Route("0.0.0.0/0")] * has4 + [Route("::/0")] * has6
        return replace(
            plan,
            routes=tuple(routes),
            kind=network.driver,
            mode=network_links.mode_of(network),
            flag=network_links.flag_of(network),
        )

    def port_targets(self, container_id: str) -> list[str]:
        """The addresses that the host's ports lead to; none where no network can publish."""
        found = []
        for version in (4, 6):
            record = self.gateway_of(container_id, version=version)
            if record is not None and self._store.networks[record.network_id].driver == "bridge":
                found.append(record.ip6_address if version == 6 else record.ip_address)
        return found

    def publish(self, container_id: str, bindings: Sequence[PortBinding]) -> list[BoundPort]:
        """Bind ``bindings`` and lead them to the container.

        The sockets are the caller's: the shim gets them, then they are closed here.
        """
        targets = self.port_targets(container_id)
        if not targets or not bindings:
            return []
        record = self.gateway_of(container_id) or self.gateway_of(container_id, version=6)
        assert record is not None, "there are targets"
        network = self._store.networks[record.network_id]
        options = rules.bridge_options(network.options, network.mtu)
        routed = [options.mode4 == "routed", options.mode6 == "routed"]
        try:
            bound = self._ports.bind(
                bindings,
                targets[0],
                default_host_ip=options.host_binding,
                families=_families(targets, routed),
            )
        except EngineError as error:
            raise type(error)(
                "driver failed programming external connectivity on endpoint "
                f"{record.container_name} ({record.id}): {error}"
            ) from error
        published = [
            PublishedPort(
                port.proto,
                port.host_ip,
                port.host_port,
                target_for(port.host_ip, targets),
                port.container_port,
            )
            for port in bound
        ] + [
            PublishedPort(binding.proto, "", 0, target, binding.container_port)
            for target in targets
            if routed[":" in target]
            for binding in bindings
        ]
        try:
            if self.firewall is not None:
                self.firewall.add_ports(container_id, published)
            self._store.save_ports(container_id, published)
        except Exception:
            self._ports.close(bound)
            if self.firewall is not None:
                self.firewall.remove_ports(container_id)
            raise
        return bound

    def unpublish(self, container_id: str) -> None:
        ports = self._store.ports.get(container_id, ())
        if not ports:
            return
        if self.firewall is not None:
            self.firewall.remove_ports(container_id)
        for port in ports:
            if port.host_ip:
                self._ports.release(port.proto, port.host_ip, port.host_port)
        self._store.remove_ports(container_id)
        _forget_datagrams(ports)

    def follow_gateway(self, container_id: str) -> None:
        """Lead the ports to the network that has the default route now; with none they end.

        Answers leave by the default route, and where they came in by another network the host's
        reverse path filter may drop them.
        """
        published = self._store.ports.get(container_id, ())
        targets = self.port_targets(container_id) if published else []
        if not targets:
            self.unpublish(container_id)
            return
        moved = _led_to(published, targets)
        if moved == tuple(published):
            return
        if self.firewall is not None:
            self.firewall.remove_ports(container_id)
            self.firewall.add_ports(container_id, moved)
        self._store.save_ports(container_id, moved)
        _forget_datagrams(published)


def _led_to(ports: Sequence[PublishedPort], targets: Sequence[str]) -> tuple[PublishedPort, ...]:
    return tuple(
        replace(port, container_ip=target_for(port.host_ip or port.container_ip, targets))
        for port in ports
    )


def _forget_datagrams(ports: Sequence[PublishedPort]) -> None:
    for address in {port.container_ip for port in ports if port.proto == "udp"}:
        try:
            conntrack.forget_udp(address)
        except OSError as error:
            log.warning("connections to %s are still tracked: %s", address, error)


def target_for(host_ip: str, targets: Sequence[str]) -> str:
    """The container's address of the same family, else the one that it has: the shim relays."""
    same = [one for one in targets if (":" in one) == (":" in host_ip)]
    return (same or targets)[0]


def _families(targets: Sequence[str], routed: Sequence[bool]) -> frozenset[int]:
    """The host's families that ports are bound on.

    IPv6 always, because the relay reaches a container without it too; IPv4 not for containers that
    only have IPv6, which Docker does not do either.
    """
    has4 = any(":" not in target for target in targets)
    return frozenset(
        version for version, usable in ((4, has4 and not routed[0]), (6, not routed[1])) if usable
    )


def _is_layer3(network: NetworkRecord) -> bool:
    """Nobody answers ARP there: what is not on the subnet goes out on the link itself."""
    return network.driver == "ipvlan" and network_links.mode_of(network) != "l2"


def with_addresses(record: EndpointRecord, addresses: Iterable[str]) -> EndpointRecord:
    """``record`` with these, which have their prefix lengths; at most one of a family."""
    for interface in map(ip_interface, addresses):
        address, length = str(interface.ip), interface.network.prefixlen
        if interface.version == 4:
            record = replace(record, ip_address=address, ip_prefix_length=length)
        else:
            record = replace(record, ip6_address=address, ip6_prefix_length=length)
    return record


def _prefixed(link_local: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{address}/{64 if ':' in address else 16}" for address in link_local)


def _interface_name(
    network: NetworkRecord, request: EndpointRequest, others: Iterable[EndpointRecord]
) -> str:
    wanted = request.driver_opts.get(rules.INTERFACE_NAME_OPTION)
    if wanted:
        return wanted
    prefix = network.options.get(rules.INTERFACE_PREFIX, "") or "eth"
    taken = {other.ifname for other in others}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"
