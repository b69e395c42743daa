"""Library of lifecycle: networks, and the one door to everything that concerns them.

``start`` makes the predefined networks and every bridge, ``restore`` takes over what running
containers have and removes what belongs to nobody. Methods are synchronous and mostly take well
under a millisecond; making or removing a bridge takes some. All run on lifecycle's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

from common.database import Database
from common.endpoint import Endpoint
from common.errors import EngineError, InternalError, InvalidArgument, NotFound, PermissionDenied
from common.ids import new_id, short
from common.netlink import Netlink
from common.options import EngineOptions
from common.paths import Paths
from lifecycle import default_networks, network_pools, network_rules
from lifecycle import filters as filtering
from lifecycle._pb.types_pb2 import Filter
from lifecycle.endpoints import Endpoints
from lifecycle.events import EventLog
from lifecycle.network_records import (
    EndpointRecord,
    EndpointRequest,
    NetworkRecord,
    NetworkRequest,
    NetworkStore,
)
from networking import bridge
from networking.bridge import Bridge
from networking.firewall import Firewall, NetworkRules, table_name
from networking.foreign import foreign_policy_warnings
from networking.ipam import AddressSpace, Pool
from networking.nftables import Nftables
from networking.ports import BoundPort, PortAllocator, PortBinding
from networking.watch import TableWatch

FORWARDING_MARK = "forwarding"  # below the exec root: this engine made the host forward
_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"until", "label", "label!"})


class NetworkService:
    def __init__(
        self,
        database: Database,
        paths: Paths,
        options: EngineOptions,
        events: EventLog | None = None,
    ) -> None:
        self._paths = paths
        self._options = options
        self._events = events
        self._store = NetworkStore(database)
        self._space = AddressSpace(options.default_address_pools)
        self._pools: dict[str, Pool] = {}
        self._allocator = PortAllocator(options.default_bind_address)
        self._endpoints = Endpoints(self._store, self._pools, self._allocator)
        self._host = Netlink()
        self._nft: Nftables | None = None
        self._firewall: Firewall | None = None
        self._watch: TableWatch | None = None

    # The engine's start and end.

    def start(self) -> list[str]:
        """Make what every start needs; returns what the administrator should know."""
        forwards = self._enable_forwarding()
        if self._options.iptables:
            self._nft = Nftables()
            table = table_name(self._paths.exec_root)
            self._firewall = Firewall(self._nft, table, forwards_for_others=forwards)
            self._endpoints.firewall = self._firewall
            self._watch = TableWatch(table)
        warnings = []
        for record in self._prepare():
            try:
                self._make_bridge(record)
            except (EngineError, OSError) as error:
                warnings.append(f"network {record.name} has no bridge: {error}")
        return warnings + self.firewall_warnings()

    def _prepare(self) -> list[NetworkRecord]:
        """Addresses of all networks, and the predefined ones; returns those with a bridge."""
        named = {record.name: record for record in self._store.networks.values()}
        for record in self._store.networks.values():
            if record.user_defined:
                self._space.take(record.subnet)
                self._pools[record.id] = network_pools.pool_of(record)
        for name, driver in (("host", "host"), ("none", "null")):
            self._store.save_network(default_networks.simple_network(name, driver, named.get(name)))
        if self._options.bridge == "none":
            if "bridge" in named:
                self._store.remove_network(named["bridge"].id)
        else:
            prefix = bridge.owner_of(self._paths.exec_root, "")
            record = default_networks.default_bridge(
                named.get("bridge"), self._options, self._space, self._host, prefix
            )
            self._store.save_network(record)
            self._pools[record.id] = network_pools.pool_of(record)
        return [record for record in self._store.networks.values() if record.bridge]

    def restore(self, live_container_ids: Collection[str]) -> list[str]:
        """Take over what running containers have; returns the interfaces that were removed."""
        self._endpoints.restore(live_container_ids)
        networks = [record for record in self._store.networks.values() if record.bridge]
        if self._firewall is not None:
            self._firewall.sync(map(_firewall_rules, networks), self._store.ports)
        return bridge.remove_leftovers(
            self._host,
            self._paths.exec_root,
            [bridge.owner_of(self._paths.exec_root, record.id) for record in networks],
            [record.host_ifname for record in self._store.endpoints.values()],
        )

    def close(self) -> None:
        """Let go of sockets; networks and containers' connections stay."""
        if self._watch is not None:
            self._watch.close()
        if self._nft is not None:
            self._nft.close()
        self._host.close()

    # The firewall, as others change it.

    def firewall_fileno(self) -> int | None:
        """Readable when ``repair_firewall`` should be called."""
        return self._watch.fileno() if self._watch is not None else None

    def repair_firewall(self) -> bool:
        """Make the table anew if somebody took parts of it away; True if so."""
        if self._watch is None or self._firewall is None or not self._watch.table_damaged():
            return False
        self._firewall.reapply()
        return True

    def firewall_warnings(self) -> list[str]:
        if self._nft is None or self._firewall is None:
            return []
        return foreign_policy_warnings(self._nft, self._firewall.table)

    # Networks.

    def create(self, request: NetworkRequest) -> NetworkRecord:
        names = {record.name for record in self._store.networks.values()}
        network_rules.check_network(request, names)
        options = network_rules.bridge_options(
            request.options, self._options.mtu or default_networks.DEFAULT_MTU
        )
        network_id = new_id()
        record = NetworkRecord(
            id=network_id,
            name=request.name,
            created=time.time_ns(),
            driver="bridge",
            internal=request.internal,
            attachable=request.attachable,
            ipam_options=request.ipam_options,
            ipam=request.ipam,
            options=request.options,
            labels=request.labels,
            bridge=options.bridge or f"br-{short(network_id)}",
            adopted=bool(options.bridge) and self._host.link(options.bridge) is not None,
            mtu=options.mtu,
        )
        self._check_bridge_name(record)
        record, self._pools[network_id] = network_pools.assign(record, self._space, self._host)
        try:
            self._make_bridge(record)
            if self._firewall is not None:
                self._firewall.add_network(_firewall_rules(record))
            self._store.save_network(record)
        except OSError as error:
            self._unmake(record)
            raise InternalError(f"network {record.name}: {error}") from error
        except Exception:
            self._unmake(record)
            raise
        self._publish("create", record)
        return record

    def _check_bridge_name(self, record: NetworkRecord) -> None:
        for other in self._store.networks.values():
            if other.bridge == record.bridge:
                raise PermissionDenied(
                    f"cannot create network {record.id} ({record.bridge}): conflicts with network "
                    f"{other.id} ({other.bridge}): networks have same bridge name"
                )

    def get(self, ref: str) -> NetworkRecord:
        """By name, id, or the unique beginning of an id."""
        networks = self._store.networks
        if ref in networks:
            return networks[ref]
        for record in networks.values():
            if record.name == ref:
                return record
        found = [record for record in networks.values() if ref and record.id.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(
                f"network {ref} is ambiguous ({len(found)} matches found on ID prefix)"
            )
        if not found:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def list_all(self, filters: Iterable[Filter] = ()) -> list[NetworkRecord]:
        wanted = filtering.by_key(filters, _FILTERS)
        kinds = set(wanted.get("type", ()))
        for kind in kinds - {"builtin", "custom"}:
            raise InternalError(f"invalid filter: 'type'='{kind}'")
        dangling = filtering.boolean(wanted, "dangling")
        return [
            record
            for record in self._store.networks.values()
            if (not kinds or ("builtin" if record.predefined else "custom") in kinds)
            and (dangling is None or dangling == self._is_dangling(record))
            and ("driver" not in wanted or record.driver in wanted["driver"])
            and ("scope" not in wanted or "local" in wanted["scope"])
            and ("name" not in wanted or filtering.match_name(record.name, wanted["name"]))
            and ("id" not in wanted or filtering.match_name(record.id, wanted["id"]))
            and filtering.match_labels(record.labels, wanted.get("label", ()))
        ]

    def members(self, network_id: str) -> list[EndpointRecord]:
        return self._store.of_network(network_id)

    def remove(self, ref: str) -> NetworkRecord:
        record = self.get(ref)
        if record.predefined:
            raise PermissionDenied(f"{record.name} is a pre-defined network and cannot be removed")
        members = self._store.of_network(record.id)
        if members:
            shown = ", ".join(
                f'name:"{one.container_name}" id:"{short(one.id)}"' for one in members
            )
            raise PermissionDenied(
                f"error while removing network: network {record.name} has active endpoints "
                f"({shown})"
            )
        self._store.remove_network(record.id)
        self._unmake(record)
        self._publish("destroy", record)
        return record

    def prune(self, filters: Iterable[Filter] = ()) -> list[str]:
        """Remove the user's networks that no running container is on; returns their names."""
        wanted = filtering.by_key(filters, _PRUNE_FILTERS)
        until = filtering.until(wanted)
        removed = []
        for record in list(self._store.networks.values()):
            if (
                self._is_dangling(record)
                and (until is None or record.created < until)
                and filtering.match_labels(record.labels, wanted.get("label", ()))
                and filtering.exclude_labels(record.labels, wanted.get("label!", ()))
            ):
                self.remove(record.id)
                removed.append(record.name)
        return removed

    def _is_dangling(self, record: NetworkRecord) -> bool:
        return record.user_defined and not self._store.of_network(record.id)

    # Containers.

    def check(self, ref: str, request: EndpointRequest) -> None:
        """What a container's create can say already; an unknown network is its start's matter."""
        try:
            network = self.get(ref)
        except NotFound:
            return
        try:
            network_rules.check_endpoint(network, request)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid config for network {ref}: {error}") from error

    def connect(
        self, container_id: str, name: str, ref: str, request: EndpointRequest
    ) -> EndpointRecord:
        network = self.get(ref)
        record = self._endpoints.connect(network, container_id, name, request)
        self._publish("connect", network, container_id)
        return record

    def disconnect(self, container_id: str, ref: str) -> EndpointRecord:
        network = self.get(ref)
        for record in self._store.of_network(network.id):
            if record.container_id == container_id:
                self._endpoints.disconnect(record)
                self._publish("disconnect", network, container_id)
                return record
        raise InternalError(f"container {container_id} is not connected to network {network.name}")

    def release(self, container_id: str) -> None:
        """The container has ended: give back all that it had."""
        for record in self._endpoints.release(container_id):
            self._publish("disconnect", self._store.networks[record.network_id], container_id)

    def rename(self, container_id: str, name: str) -> None:
        self._store.rename_container(container_id, name)

    def endpoints_of(self, container_id: str) -> list[EndpointRecord]:
        return self._store.of_container(container_id)

    def gateway_of(self, container_id: str) -> EndpointRecord | None:
        """The endpoint that has the default route and the published ports."""
        return self._endpoints.gateway_of(container_id)

    def default_gateway(self) -> str:
        """The host's address on the default bridge; empty if there is none."""
        try:
            return self.get("bridge").bridge_address
        except NotFound:
            return ""

    def for_shim(self, container_id: str) -> list[Endpoint]:
        return self._endpoints.for_shim(container_id)

    def publish(self, container_id: str, bindings: Sequence[PortBinding]) -> list[BoundPort]:
        """Bind ports and lead them to the container; nothing on networks that cannot publish.

        The caller passes the sockets on and closes its own.
        """
        return self._endpoints.publish(container_id, bindings)

    def unpublish(self, container_id: str) -> None:
        self._endpoints.unpublish(container_id)

    # What they are made of.

    def _make_bridge(self, record: NetworkRecord) -> None:
        length = record.subnet.partition("/")[2]
        wanted = Bridge(
            name=record.bridge,
            owner=bridge.owner_of(self._paths.exec_root, record.id),
            addresses=(f"{record.bridge_address}/{length}",),
            mtu=record.mtu,
            adopt=record.adopted,
        )
        bridge.ensure(self._host, wanted)

    def _unmake(self, record: NetworkRecord) -> None:
        if self._firewall is not None:
            self._firewall.remove_network(record.id)
        link = self._host.link(record.bridge)
        owner = bridge.owner_of(self._paths.exec_root, record.id)
        if link is not None and link.alias == owner:
            bridge.delete(self._host, record.bridge)
        self._pools.pop(record.id, None)
        self._space.give_back(record.subnet)

    def _enable_forwarding(self) -> bool:
        """Whether the host forwards for others than containers."""
        mark = self._paths.exec_root / FORWARDING_MARK
        if self._options.ip_forward and bridge.enable_forwarding():
            mark.touch()
        return not mark.exists()

    def _publish(self, action: str, network: NetworkRecord, container_id: str = "") -> None:
        if self._events is None:
            return
        attributes = {"name": network.name, "type": network.driver}
        if container_id:
            attributes["container"] = container_id
        self._events.publish("network", action, network.id, attributes)


def _firewall_rules(record: NetworkRecord) -> NetworkRules:
    options = network_rules.bridge_options(record.options, record.mtu)
    return NetworkRules(
        network_id=record.id,
        bridge=record.bridge,
        subnets=(record.subnet,),
        masquerade=options.masquerade,
        icc=options.icc,
        internal=record.internal,
    )
