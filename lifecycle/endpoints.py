"""Library of lifecycle: containers' connections to networks, their addresses and published ports.

Used by NetworkService (networks.py) only. What is here is what running containers hold: a record
per endpoint, an address of the network's pool, and elements in the firewall. The interfaces
themselves are the shim's to make (common/endpoint.py), and the kernel's to remove.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from common.endpoint import Endpoint
from common.errors import EngineError, InternalError, PermissionDenied
from common.ids import new_id, short
from lifecycle import network_rules as rules
from lifecycle.network_records import (
    EndpointRecord,
    EndpointRequest,
    NetworkRecord,
    NetworkStore,
)
from networking import bridge, conntrack
from networking.firewall import Firewall, PublishedPort
from networking.ipam import Pool, mac_of
from networking.ports import BoundPort, PortAllocator, PortBinding

log = logging.getLogger(__name__)


class Endpoints:
    def __init__(self, store: NetworkStore, pools: dict[str, Pool], ports: PortAllocator) -> None:
        self._store = store
        self._pools = pools
        self._ports = ports
        self.firewall: Firewall | None = None  # set at start; None with --iptables=false

    def restore(self, live: Collection[str]) -> None:
        """Take the addresses and ports of containers that run, forget those of the others."""
        for record in list(self._store.endpoints.values()):
            if record.container_id not in live or record.network_id not in self._store.networks:
                self._store.remove_endpoint(record.id)
            elif record.ip_address:
                self._pools[record.network_id].reserve(record.ip_address)
        for container_id, ports in list(self._store.ports.items()):
            if container_id not in live:
                self._store.remove_ports(container_id)
                continue
            for port in ports:
                self._ports.hold(port.proto, port.host_ip, port.host_port)

    def connect(
        self, network: NetworkRecord, container_id: str, name: str, request: EndpointRequest
    ) -> EndpointRecord:
        rules.check_endpoint(network, request)
        others = self._store.of_container(container_id)
        if any(other.network_id == network.id for other in others):
            raise PermissionDenied(
                f"endpoint with name {name} already exists in network {network.name}"
            )
        record = EndpointRecord(
            id=new_id(),
            network_id=network.id,
            network_name=network.name,
            container_id=container_id,
            container_name=name,
            aliases=request.aliases,
            gw_priority=request.gw_priority,
        )
        if network.driver == "bridge":
            record = self._with_address(record, network, request, others)
        try:
            self._store.save_endpoint(record)
        except Exception:
            self._give_back(record)
            raise
        return record

    def _with_address(
        self,
        record: EndpointRecord,
        network: NetworkRecord,
        request: EndpointRequest,
        others: Iterable[EndpointRecord],
    ) -> EndpointRecord:
        sysctls = rules.endpoint_sysctls(request.driver_opts)
        pool = self._pools[network.id]
        if request.ipv4:
            pool.reserve(request.ipv4)
            address = request.ipv4
        else:
            try:
                address = pool.allocate()
            except InternalError as error:
                raise InternalError(f"{error}: {network.name} ({network.id})") from error
        names = (record.container_name, *request.aliases, short(record.container_id))
        return replace(
            record,
            ifname=_interface_name(network, request, others),
            host_ifname=bridge.ENDPOINT_PREFIX + record.id[:11],
            mac=request.mac.lower() or mac_of(address),
            ip_address=address,
            ip_prefix_length=pool.prefix_length,
            gateway="" if network.internal else network.gateway,
            dns_names=tuple(dict.fromkeys(names)) if network.user_defined else (),
            sysctls=sysctls,
        )

    def disconnect(self, record: EndpointRecord) -> None:
        """Forget one endpoint; ports that lead to its address move to the next gateway's."""
        self._store.remove_endpoint(record.id)
        self._give_back(record)
        published = self._store.ports.get(record.container_id, ())
        if any(port.container_ip == record.ip_address for port in published):
            self._move_ports(record.container_id, published)

    def release(self, container_id: str) -> list[EndpointRecord]:
        """Forget all that the container has; returns the endpoints that it had."""
        self.unpublish(container_id)
        records = self._store.of_container(container_id)
        for record in records:
            self._store.remove_endpoint(record.id)
            self._give_back(record)
        return records

    def _give_back(self, record: EndpointRecord) -> None:
        if record.ip_address and record.network_id in self._pools:
            self._pools[record.network_id].release(record.ip_address)

    def gateway_of(self, container_id: str) -> EndpointRecord | None:
        """The endpoint that has the default route, chosen as Docker does.

        The highest priority first, then the network's name in lexical order.
        """
        candidates = [one for one in self._store.of_container(container_id) if one.gateway]
        return min(candidates, key=lambda one: (-one.gw_priority, one.network_name), default=None)

    def for_shim(self, container_id: str) -> list[Endpoint]:
        """What the shim has to plug, once ports are published; nothing for host and none."""
        chosen = self.gateway_of(container_id)
        hairpin = container_id in self._store.ports and bridge.needs_hairpin()
        return [
            self._for_shim(record, is_gateway=record == chosen, hairpin=hairpin)
            for record in self._store.of_container(container_id)
            if record.ip_address
        ]

    def _for_shim(self, record: EndpointRecord, *, is_gateway: bool, hairpin: bool) -> Endpoint:
        network = self._store.networks[record.network_id]
        return Endpoint(
            bridge=network.bridge,
            host_ifname=record.host_ifname,
            ifname=record.ifname,
            mac=record.mac,
            mtu=network.mtu,
            addresses=(f"{record.ip_address}/{record.ip_prefix_length}",),
            gateway=record.gateway if is_gateway else None,
            isolated=not rules.bridge_options(network.options, network.mtu).icc,
            hairpin=hairpin,
            sysctls=record.sysctls,
        )

    def publish(self, container_id: str, bindings: Sequence[PortBinding]) -> list[BoundPort]:
        """Bind ``bindings`` and lead them to the container.

        The sockets are the caller's: the shim gets them, then they are closed here.
        """
        record = self.gateway_of(container_id)
        if record is None or not bindings:
            return []
        network = self._store.networks[record.network_id]
        options = rules.bridge_options(network.options, network.mtu)
        try:
            bound = self._ports.bind(
                bindings, record.ip_address, default_host_ip=options.host_binding
            )
        except EngineError as error:
            raise type(error)(
                "driver failed programming external connectivity on endpoint "
                f"{record.container_name} ({record.id}): {error}"
            ) from error
        published = [
            PublishedPort(
                port.proto, port.host_ip, port.host_port, record.ip_address, port.container_port
            )
            for port in bound
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
            self._ports.release(port.proto, port.host_ip, port.host_port)
        self._store.remove_ports(container_id)
        for address in {port.container_ip for port in ports if port.proto == "udp"}:
            try:
                conntrack.forget_udp(address)
            except OSError as error:
                log.warning("connections to %s are still tracked: %s", address, error)

    def _move_ports(self, container_id: str, published: Sequence[PublishedPort]) -> None:
        target = self.gateway_of(container_id)
        if self.firewall is not None:
            self.firewall.remove_ports(container_id)
        if target is None:
            return
        moved = [replace(port, container_ip=target.ip_address) for port in published]
        if self.firewall is not None:
            self.firewall.add_ports(container_id, moved)
        self._store.save_ports(container_id, moved)


def _interface_name(
    network: NetworkRecord, request: EndpointRequest, others: Iterable[EndpointRecord]
) -> str:
    wanted = request.driver_opts.get(rules.INTERFACE_NAME_OPTION)
    if wanted:
        return wanted
    prefix = rules.bridge_options(network.options, network.mtu).interface_prefix
    taken = {other.ifname for other in others}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"
