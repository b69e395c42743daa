"""Library of lifecycle: networks whose driver or whose IPAM driver is a plugin.

Made, removed and, after a start of lifecycle, told anew to plugins that do not keep a memory. What
NetworkService (networks.py) makes of a network stays with it: its record, and the bridge of one
whose addresses alone are a plugin's. Containers' part in them is in remote_endpoints.py.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from common.errors import Conflict, EngineError, InternalError, InvalidArgument, NotFound
from common.ids import new_id
from lifecycle import remote_drivers as drivers
from lifecycle._pb.types_pb2 import Filter
from lifecycle.network_records import (
    BUILT_IN,
    BUILT_IN_IPAM,
    IpamConfig,
    NetworkRecord,
    NetworkRequest,
    RemotePool,
)
from lifecycle.networks import NetworkService
from lifecycle.remote_calls import RemoteCalls
from lifecycle.remote_drivers import IPAM, NETWORK, Json

log = logging.getLogger(__name__)

_REQUEST_TYPE = {"RequestAddressType": drivers.GATEWAY_ADDRESS}


class RemoteNetworks:
    def __init__(self, networks: NetworkService, calls: RemoteCalls) -> None:
        self._networks = networks
        self.calls = calls
        # container id → the endpoints that plugins know of, in the order in which they were made
        self.leases: dict[str, list[str]] = {}
        self._coming: set[str] = set()  # names of networks that are being made

    async def create(self, request: NetworkRequest) -> NetworkRecord:
        """A new network, whatever its drivers."""
        plugins = {request.driver or "bridge"} - BUILT_IN - {"overlay"}
        plugins |= {request.ipam_driver or "default"} - BUILT_IN_IPAM
        if request.name in self._coming:
            raise Conflict(f"network with name {request.name} already exists")
        if request.config_only:
            return self._networks.create(replace(request, ipam_driver="default"))
        if not plugins and request.ipam_driver != "null":
            return self._networks.create(request)
        record = self._networks.draft(request, plugins)
        self._coming.add(request.name)
        self.calls.owners.add(record.id)
        try:
            record = await self._make(record)
            return self._networks.commit(record)
        except BaseException:
            await self.calls.release([record.id])
            raise
        finally:
            self._coming.discard(request.name)

    async def _make(self, record: NetworkRecord) -> NetworkRecord:
        skips: Collection[int] = ()
        options = _options(record)
        if record.is_remote:
            plugin = await drivers.network_driver(self.calls.plugins, record.driver)
            await self.calls.sweep(record.driver)
            skips = await drivers.skips_gateways(plugin, options)
        if record.has_remote_ipam:
            record = await self._with_pools(record, skips)
        elif record.ipam_driver == "null":
            record = replace(record, ipam=(IpamConfig("0.0.0.0/0"),), automatic=(4,))
        record = self._networks.make(record, skips)
        try:
            if record.is_remote:
                step = drivers.create_network(record.driver, record.id, options, *_data(record))
                await self.calls.acquire(record.id, step)
        except BaseException:
            self._networks.unmake(record)
            raise
        return record

    # Addresses

    async def _with_pools(self, record: NetworkRecord, skips: Collection[int]) -> NetworkRecord:
        plugin = await drivers.find(self.calls.plugins, record.ipam_driver, IPAM)
        await self.calls.sweep(record.ipam_driver)
        await drivers.ipam_requirements(plugin)
        try:
            space = await drivers.address_space(plugin)
        except EngineError as error:
            raise NotFound(f"failed to get default address space: {error}") from error
        pools: list[RemotePool] = []
        configs: list[IpamConfig] = []
        automatic: list[int] = []
        for version in [4] * record.enable_ipv4 + [6] * record.enable_ipv6:
            wanted = [one for one in record.ipam if _version(one.subnet) == version]
            if not wanted:
                automatic.append(version)
            for config in wanted or [IpamConfig("")]:
                pool = await self._pool(record, space, version, config, skip=version in skips)
                pools.append(pool)
                gateway = pool.gateway.partition("/")[0]
                configs.append(config if wanted else IpamConfig(pool.pool, gateway=gateway))
        record = replace(
            record,
            remote_pools=tuple(pools),
            ipam=tuple(configs),
            automatic=tuple(automatic),
        )
        return _with_subnets(record)

    async def _pool(
        self, record: NetworkRecord, space: str, version: int, config: IpamConfig, *, skip: bool
    ) -> RemotePool:
        found, data = await self._free_pool(record, space, version, config)
        pool = replace(found, space=space)
        given = data.get(drivers.GATEWAY_ADDRESS)
        if given and not config.gateway:
            pool = replace(pool, gateway=_gateway_of(given))
        elif config.gateway or not skip:
            try:
                gateway = await self._address(record, pool.pool_id, config.gateway, _REQUEST_TYPE)
            except EngineError as error:
                raise InternalError(
                    f"failed to allocate gateway ({config.gateway}): {error}"
                ) from error
            pool = replace(pool, gateway=gateway)
        auxiliary = {}
        for name, address in config.auxiliary.items():
            try:
                auxiliary[name] = await self._address(record, pool.pool_id, address, None)
            except EngineError as error:
                raise InternalError(
                    f"failed to allocate secondary ip address ({name}:{address}): {error}"
                ) from error
        return replace(pool, auxiliary=auxiliary)

    async def _free_pool(
        self, record: NetworkRecord, space: str, version: int, config: IpamConfig
    ) -> tuple[RemotePool, Mapping[str, str]]:
        """One that overlaps nothing; those that do are held meanwhile, or they would come again."""
        host = [ip_network(one, strict=False) for one in self._networks.host_networks()]
        held: list[str] = []
        seen: set[str] = set()
        try:
            while True:
                held.append(new_id())
                self.calls.owners.add(held[-1])
                found, data = await self._request_pool(held[-1], record, space, version, config)
                subnet = ip_network(found.pool)
                busy = any(one.version == version and one.overlaps(subnet) for one in host)
                if config.subnet or not busy or found.pool == "0.0.0.0/0":
                    self.calls.hand_over(held.pop(), record.id)
                    return found, data
                if found.pool in seen:
                    raise InternalError(
                        f"the pool {subnet} of the plugin {record.ipam_driver} overlaps with a "
                        "network of the host's"
                    )
                seen.add(found.pool)
        finally:
            if held:
                await self.calls.release(held)

    async def _request_pool(
        self, owner: str, record: NetworkRecord, space: str, version: int, config: IpamConfig
    ) -> tuple[RemotePool, Mapping[str, str]]:
        step = drivers.request_pool(
            record.ipam_driver,
            space,
            config.subnet,
            config.ip_range,
            record.ipam_options,
            ipv6=version == 6,
        )
        answer = await self.calls.acquire(
            owner, step, lambda said: drivers.release_pool(str(said.get("PoolID") or ""))
        )
        pool = drivers.pool_of(answer, record.ipam_driver)
        data = {str(key): str(value) for key, value in (answer.get("Data") or {}).items()}
        return RemotePool(version, str(answer.get("PoolID") or ""), pool, space), data

    async def _address(
        self, record: NetworkRecord, pool_id: str, address: str, options: Mapping[str, str] | None
    ) -> str:
        return await request_address(
            self.calls, record.id, record.ipam_driver, pool_id, address, options
        )

    # The end of a network

    async def remove(self, ref: str) -> None:
        record = self._networks.get(ref)
        self._networks.check_removable(record)
        if record.is_remote:
            try:
                await self.calls.plugins.get(record.driver, NETWORK, patience=0)
            except NotFound as error:
                raise InternalError(
                    f"error while removing network: failed deleting Network: {error}"
                ) from error
            except EngineError as error:
                # As with Docker: it is there, and will be told when it answers.
                log.warning("the plugin %s does not answer: %s", record.driver, error)
        await self._networks.remove_in_thread(record.id)
        if record.is_remote or record.has_remote_ipam:
            await self.calls.release([record.id])

    async def prune(self, filters: Iterable[Filter]) -> list[str]:
        return await self._networks.prune(filters, self._prune_one)

    async def _prune_one(self, network_id: str) -> bool:
        try:
            await self.remove(network_id)
        except EngineError as error:
            log.warning("network %s was not pruned: %s", network_id, error)
            return False
        return True

    # After a start of lifecycle

    async def replay(self) -> None:
        """Tell IPAM plugins that forget what they have given out."""
        for record in self._networks.list_all():
            if not record.has_remote_ipam:
                continue
            try:
                await self._replay(record)
            except EngineError as error:
                log.warning("addresses of network %s: %s", record.name, error)

    async def _replay(self, record: NetworkRecord) -> None:
        plugin = await self.calls.plugins.get(record.ipam_driver, IPAM)
        if not (await drivers.ipam_requirements(plugin))[1]:
            return
        ranges = {one.subnet: one.ip_range for one in record.ipam}
        for pool in record.remote_pools:
            step = drivers.request_pool(
                record.ipam_driver,
                pool.space,
                pool.pool,
                ranges.get(pool.pool, ""),
                record.ipam_options,
                ipv6=pool.version == 6,
            )
            await plugin.call(step.method, step.body)
            wanted: list[tuple[str, Mapping[str, str] | None]] = []
            wanted += [(pool.gateway, _REQUEST_TYPE)] if pool.gateway else []
            wanted += [(address, None) for address in pool.auxiliary.values()]
            for member in self._networks.members(record.id):
                wanted += [(one, None) for one in member.addresses if _is_in(one, pool)]
            for address, options in wanted:
                plain = address.partition("/")[0]
                again = drivers.request_address(record.ipam_driver, pool.pool_id, plain, options)
                await plugin.call(again.method, again.body)


async def request_address(
    calls: RemoteCalls,
    owner: str,
    driver: str,
    pool_id: str,
    address: str,
    options: Mapping[str, str] | None,
) -> str:
    """An address with its prefix length, ``owner``'s from now on."""

    def undo(said: Json) -> tuple[str, Json]:
        given = str(said.get("Address") or "").partition("/")[0]
        return drivers.release_address(pool_id, given or address)

    step = drivers.request_address(driver, pool_id, address, options)
    return drivers.address_of(await calls.acquire(owner, step, undo))


def _options(record: NetworkRecord) -> Json:
    return drivers.network_options(
        ipv4=record.enable_ipv4,
        ipv6=record.enable_ipv6,
        internal=record.internal,
        options=record.options,
    )


def _data(record: NetworkRecord) -> tuple[list[Json], list[Json]]:
    """The addresses of a network as its driver is told them, of IPv4 and of IPv6."""
    pools = record.remote_pools or _own_pools(record)
    found: tuple[list[Json], list[Json]] = ([], [])
    for pool in pools:
        data: Json = {"AddressSpace": pool.space, "Pool": pool.pool}
        if pool.gateway:
            data["Gateway"] = pool.gateway
        if pool.auxiliary:
            data["AuxAddresses"] = dict(pool.auxiliary)
        found[pool.version == 6].append(data)
    return found


def _own_pools(record: NetworkRecord) -> list[RemotePool]:
    """What the built-in IPAM drivers give, in the form of a plugin's."""
    if record.ipam_driver == "null":
        return [RemotePool(4, "", "0.0.0.0/0", "null")] if record.enable_ipv4 else []
    found = []
    for version, subnet, gateway in (
        (4, record.subnet, record.gateway),
        (6, record.subnet6, record.gateway6),
    ):
        if not subnet:
            continue
        length = subnet.partition("/")[2]
        auxiliary = {
            name: f"{address}/{length}"
            for config in record.ipam
            if _version(config.subnet) == version
            for name, address in config.auxiliary.items()
        }
        shown = f"{gateway}/{length}" if gateway else ""
        found.append(RemotePool(version, "", subnet, drivers.LOCAL_SPACE, shown, auxiliary))
    return found


def _with_subnets(record: NetworkRecord) -> NetworkRecord:
    """The first pool of each family is what a bridge gets."""
    for version in (6, 4):
        pools = [pool for pool in record.remote_pools if pool.version == version]
        if len(pools) > 1 and not record.is_remote:
            raise InvalidArgument(f"{record.driver} driver doesn't support multiple subnets")
        if not pools:
            continue
        gateway = pools[0].gateway.partition("/")[0]
        if version == 4:
            record = replace(record, subnet=pools[0].pool, bridge_address=gateway, gateway=gateway)
        else:
            record = replace(
                record, subnet6=pools[0].pool, bridge_address6=gateway, gateway6=gateway
            )
    return record


def _gateway_of(value: str) -> str:
    try:
        return drivers.cidr(value)
    except EngineError as error:
        raise InvalidArgument(
            f"failed to parse gateway address ({value}) returned by ipam driver: {error}"
        ) from error


def _is_in(address: str, pool: RemotePool) -> bool:
    return ip_address(address) in ip_network(pool.pool)


def _version(subnet: str) -> int:
    return 6 if ":" in subnet else 4
