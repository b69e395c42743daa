"""Library of lifecycle: networks, and the one door to everything that concerns them.

``start`` makes the predefined networks and every bridge, ``restore`` takes over what running
containers have and removes what belongs to nobody. Methods are synchronous and mostly take well
under a millisecond; making or removing a bridge takes some. All run on lifecycle's event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path

from common.database import Database
from common.endpoint import Endpoint
from common.errors import EngineError, InternalError, InvalidArgument, NotFound, PermissionDenied
from common.ids import new_id, short
from common.netlink import Netlink
from common.options import EngineOptions
from common.paths import Paths
from lifecycle import (
    default_networks,
    forwarding,
    network_links,
    network_pools,
    network_rules,
    network_templates,
)
from lifecycle import filters as filtering
from lifecycle._pb.types_pb2 import Filter
from lifecycle.endpoints import Endpoints
from lifecycle.events import EventLog
from lifecycle.name_files import NameFiles
from lifecycle.network_pools import Pools
from lifecycle.network_records import (
    BUILT_IN,
    EndpointRecord,
    EndpointRequest,
    GivenEndpoint,
    NetworkRecord,
    NetworkRequest,
    NetworkStore,
)
from networking import bridge
from networking.firewall import Firewall, NetworkRules, PublishedPort, table_name
from networking.foreign import foreign_policy_warnings
from networking.ipam import AddressSpace
from networking.nftables import Nftables
from networking.ports import BoundPort, PortAllocator, PortBinding
from networking.watch import TableWatch

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
        self._space = AddressSpace(options.default_address_pools, seed=_host_seed())
        self._pools: dict[str, Pools] = {}
        self._names = NameFiles(paths.names)
        allocator = PortAllocator(options.default_bind_address)
        self._endpoints = Endpoints(self._store, self._pools, allocator, self._names)
        self._host = Netlink()
        self._nft: Nftables | None = None
        self._firewall: Firewall | None = None
        self._watch: TableWatch | None = None

    # The engine's start and end.

    def start(self) -> list[str]:
        """Make what every start needs; returns what the administrator should know."""
        networks = self._prepare()
        wanted, root = self._options.ip_forward, self._paths.exec_root
        forwards = forwarding.enable(root, wanted=wanted)
        forwards6 = forwarding.enable6(root, networks, wanted=wanted)
        if self._options.iptables:
            self._nft = Nftables()
            table = table_name(self._paths.exec_root)
            self._firewall = Firewall(
                self._nft, table, forwards_for_others=forwards, forwards6_for_others=forwards6
            )
            self._endpoints.firewall = self._firewall
            self._watch = TableWatch(table)
        warnings = []
        for record in networks:
            try:
                network_links.make(self._host, record, self._owner(record))
            except (EngineError, OSError) as error:
                warnings.append(f"network {record.name} has no bridge: {error}")
        return warnings + self.firewall_warnings()

    def _prepare(self) -> list[NetworkRecord]:
        """Addresses of all networks, and the predefined ones; returns those with an interface."""
        named = {record.name: record for record in self._store.networks.values()}
        for record in self._store.networks.values():
            if record.user_defined and record.ipam_driver == "default":
                for subnet in record.subnets:
                    self._space.take(subnet)
                self._pools[record.id] = network_pools.pools_of(record)
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
            self._pools[record.id] = network_pools.pools_of(record)
        return [record for record in self._store.networks.values() if record.bridge]

    def restore(
        self, live_container_ids: Collection[str], known_endpoints: Collection[str] | None = None
    ) -> list[str]:
        """Take over what running containers have; returns the interfaces that were removed.

        ``known_endpoints`` are those that containers' records name: others are of connects that
        were never finished.
        """
        self._endpoints.restore(live_container_ids, known_endpoints)
        self._paths.names.mkdir(mode=0o700, exist_ok=True)
        self._names.sync(self._store.networks.values(), self._store.endpoints.values())
        networks = [record for record in self._store.networks.values() if record.bridge]
        if self._firewall is not None:
            bridges = filter(_is_bridge, networks)
            self._firewall.sync(map(_firewall_rules, bridges), self._store.ports)
        return bridge.remove_leftovers(
            self._host,
            self._paths.exec_root,
            map(self._owner, networks),
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
        record = self.draft(request)
        return self.commit(record if record.config_only else self.make(record))

    def draft(
        self, request: NetworkRequest, plugins: Collection[str] = (), network_id: str = ""
    ) -> NetworkRecord:
        """What is to be made, once everything was checked but for the drivers in ``plugins``."""
        request = network_templates.complete(request, self._options, self.get)
        names = {record.name for record in self._store.networks.values()}
        network_rules.check_network(request, names, plugins)
        return NetworkRecord(
            id=network_id or new_id(),
            name=request.name,
            created=time.time_ns(),
            driver="null" if request.config_only else request.driver or "bridge",
            internal=request.internal,
            attachable=request.attachable,
            enable_ipv4=request.enable_ipv4,
            enable_ipv6=request.enable_ipv6,
            config_only=request.config_only,
            config_from=request.config_from,
            ipam_driver=request.ipam_driver or "default",
            ipam_options=request.ipam_options,
            ipam=request.ipam,
            options=request.options,
            labels=request.labels,
        )

    def commit(self, record: NetworkRecord) -> NetworkRecord:
        """From now on it exists."""
        self._store.save_network(record)
        self._publish("create", record)
        return record

    def make(self, record: NetworkRecord, skip_gateways: Collection[int] = ()) -> NetworkRecord:
        """Addresses, interface, rules and names; what was made is taken back on a failure.

        A plugin may say of which families it needs no gateway.
        """
        without = network_links.without_gateway(record)
        default_mtu = self._options.mtu or default_networks.DEFAULT_MTU
        record = network_links.chosen(record, default_mtu, self._host)
        for other in self._store.networks.values():
            network_links.check_name(record, other)
        if record.ipam_driver == "default":
            record, self._pools[record.id] = network_pools.assign(
                record, self._space, self._host, without_gateway={*without, *skip_gateways}
            )
        try:
            network_links.make(self._host, record, self._owner(record))
            if self._firewall is not None and _is_bridge(record):
                self._firewall.add_network(_firewall_rules(record))
            forwards6 = forwarding.enable6(
                self._paths.exec_root, [record], wanted=self._options.ip_forward
            )
            if not forwards6 and self._firewall is not None:
                self._firewall.drop_others6()
            self._names.add_network(record.id)
        except OSError as error:
            self.unmake(record)
            raise InternalError(f"network {record.name}: {error}") from error
        except Exception:
            self.unmake(record)
            raise
        return record

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
        network_rules.check_filters(wanted)
        kinds = wanted.get("type", ())
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

    def drivers(self) -> list[str]:
        return sorted(BUILT_IN | {record.driver for record in self._store.networks.values()})

    def members(self, network_id: str) -> list[EndpointRecord]:
        return self._store.of_network(network_id)

    def remove(self, ref: str) -> NetworkRecord:
        """At once; ``remove_in_thread`` is for an event loop."""
        record = self._take_out(self.get(ref))
        network_links.delete(record, self._paths.exec_root)
        self._give_back(record)
        return record

    async def remove_in_thread(self, ref: str) -> NetworkRecord:
        """The kernel takes some ten milliseconds for an interface's end; nobody waits meanwhile.

        The subnet is free again when the interface is gone, so that no two have it at once.
        """
        record = self._take_out(self.get(ref))
        try:
            await asyncio.to_thread(network_links.delete, record, self._paths.exec_root)
        finally:
            self._give_back(record)
        return record

    def check_removable(self, record: NetworkRecord) -> None:
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
        if record.config_only:
            users = [
                one.name
                for one in self._store.networks.values()
                if one.config_from in (record.name, record.id)
            ]
            if users:
                raise PermissionDenied(f"configuration network {record.name!r} is in use")

    def _take_out(self, record: NetworkRecord) -> NetworkRecord:
        """Nobody can use or find it from now on."""
        self.check_removable(record)
        self._store.remove_network(record.id)
        if self._firewall is not None:
            self._firewall.remove_network(record.id)
        self._names.remove_network(record.id)
        return record

    def _give_back(self, record: NetworkRecord) -> None:
        self._give_back_subnets(record)
        self._publish("destroy", record)

    async def prune(
        self, filters: Iterable[Filter] = (), remove: Callable[[str], Awaitable[bool]] | None = None
    ) -> list[str]:
        """Remove the user's networks that no running container is on; returns their names.

        ``remove`` is for networks that plugins have a part in, and says whether it did.
        """
        wanted = filtering.by_key(filters, _PRUNE_FILTERS)
        until = filtering.until(wanted)
        doomed = [
            record
            for record in self._store.networks.values()
            if self._is_dangling(record)
            and not record.config_only
            and (until is None or record.created < until)
            and filtering.match_labels(record.labels, wanted.get("label", ()))
            and filtering.exclude_labels(record.labels, wanted.get("label!", ()))
        ]
        done = await asyncio.gather(*((remove or self._remove)(record.id) for record in doomed))
        return [record.name for record, is_gone in zip(doomed, done, strict=True) if is_gone]

    async def _remove(self, network_id: str) -> bool:
        await self.remove_in_thread(network_id)
        return True

    def _is_dangling(self, record: NetworkRecord) -> bool:
        return record.user_defined and not self._store.of_network(record.id)

    # Containers.

    def check(self, ref: str, request: EndpointRequest, *, prefix: bool = True) -> None:
        """What a container's create can say already; an unknown network is its start's matter."""
        try:
            network = self.get(ref)
        except NotFound:
            return
        try:
            network_rules.check_endpoint(network, request)
        except InvalidArgument as error:
            if not prefix:
                raise
            raise InvalidArgument(f"invalid config for network {ref}: {error}") from error

    def connect(
        self,
        container_id: str,
        name: str,
        ref: str,
        request: EndpointRequest,
        given: GivenEndpoint | None = None,
    ) -> EndpointRecord:
        network = self.get(ref)
        record = self._endpoints.connect(network, container_id, name, request, given)
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

    def update(self, record: EndpointRecord) -> None:
        """A plugin has said more of an endpoint."""
        self._endpoints.update(record)

    def rename(self, container_id: str, name: str) -> None:
        self._endpoints.rename(container_id, name)

    def endpoints_of(self, container_id: str) -> list[EndpointRecord]:
        return self._store.of_container(container_id)

    @property
    def has_remote(self) -> bool:
        """Whether plugins have a part in any network."""
        return bool(self._store.remote)

    def remote(self, ref: str) -> NetworkRecord | None:
        """The network of that name, if plugins have a part in it."""
        try:
            record = self.get(ref) if self._store.remote else None
        except EngineError:
            return None
        return record if record is not None and record.id in self._store.remote else None

    def ids(self) -> list[str]:
        return list(self._store.networks)

    def network_of(self, endpoint: EndpointRecord) -> NetworkRecord:
        return self._store.networks[endpoint.network_id]

    def names_of(self, network_id: str) -> Path:
        """The directory that containers' names on the network are in."""
        return self._names.directory(network_id)

    def gateways_of(self, container_id: str) -> list[EndpointRecord]:
        """The endpoints that have a default route, of IPv4 first; none twice."""
        found = [self._endpoints.gateway_of(container_id, version=version) for version in (4, 6)]
        return list({one.id: one for one in found if one is not None}.values())

    def may_lead_out(self, container_id: str) -> bool:
        """Where a plugin has still to say which way, or that there is another."""
        return self.has_remote and any(
            self.network_of(one).is_remote and not self.network_of(one).internal
            for one in self._store.of_container(container_id)
        )

    def leads_out(self, container_id: str) -> bool:
        return self._endpoints.leads_out(container_id)

    def port_targets(self, container_id: str) -> list[str]:
        return self._endpoints.port_targets(container_id)

    def plan(self, endpoint: EndpointRecord) -> Endpoint:
        return self._endpoints.plan(endpoint)

    def published(self, container_id: str) -> Sequence[PublishedPort]:
        return self._store.ports.get(container_id, ())

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

    def follow_gateway(self, container_id: str) -> None:
        """Another of its networks may have the default route now: its ports go with that."""
        self._endpoints.follow_gateway(container_id)

    def unpublish(self, container_id: str) -> None:
        self._endpoints.unpublish(container_id)

    # What they are made of.

    def _owner(self, record: NetworkRecord) -> str:
        return bridge.owner_of(self._paths.exec_root, record.id)

    def unmake(self, record: NetworkRecord) -> None:
        if self._firewall is not None:
            self._firewall.remove_network(record.id)
        network_links.delete(record, self._paths.exec_root)
        self._names.remove_network(record.id)
        self._give_back_subnets(record)

    def _give_back_subnets(self, record: NetworkRecord) -> None:
        if self._pools.pop(record.id, None) is not None:
            for subnet in record.subnets:
                self._space.give_back(subnet)

    def has_link(self, name: str) -> bool:
        return self._host.link(name) is not None

    def host_networks(self) -> list[str]:
        """What an automatic subnet must not overlap with."""
        return bridge.host_networks(self._host)

    def _publish(self, action: str, network: NetworkRecord, container_id: str = "") -> None:
        if self._events is None:
            return
        attributes = {"name": network.name, "type": network.driver}
        if container_id:
            attributes["container"] = container_id
        self._events.publish("network", action, network.id, attributes)


def _is_bridge(record: NetworkRecord) -> bool:
    return record.driver == "bridge"


def _host_seed() -> bytes:
    try:
        return Path("/etc/machine-id").read_bytes()
    except FileNotFoundError:
        return os.uname().nodename.encode()


def _firewall_rules(record: NetworkRecord) -> NetworkRules:
    options = network_rules.bridge_options(record.options, record.mtu)
    return NetworkRules(
        network_id=record.id,
        bridge=record.bridge,
        subnets=record.subnets,
        masquerade=options.masquerade,
        icc=options.icc,
        internal=record.internal,
        mode4=options.mode4,
        mode6=options.mode6,
        host_ips=options.host_ips,
        trusted=options.trusted,
    )
