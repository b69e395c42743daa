"""Library of lifecycle: changing limits and the restart policy of a container that exists.

What the client sets replaces, what it leaves at Docker's "not given" stays (moby
container/container_unix.go, UpdateContainer).
"""

from __future__ import annotations

from common.errors import Conflict, EngineError
from lifecycle import kernel_support, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.spec_resources import resources

_CPU_BANDWIDTH = ("cpu_period", "cpu_quota")
# All others, such as devices and ulimits, are accepted and ignored.
_CHANGEABLE = frozenset(
    (
        *("blkio_weight", "cpu_shares", "nano_cpus", "cpu_period", "cpu_quota", "pids_limit"),
        *("cpu_realtime_period", "cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems"),
        *("memory", "memory_swap", "memory_reservation"),
    )
)


async def update(engine: Engine, container: Container, request: pb.UpdateRequest) -> pb.UpdateReply:
    warnings = kernel_support.discard_unsupported(engine.kernel, request.resources)
    async with container.lock:
        try:
            await _update(engine, container, request)
        except EngineError as error:
            raise type(error)(f"Cannot update container {container.id}: {error}") from error
    engine.publish(container, "update")
    return pb.UpdateReply(warnings=warnings)


async def _update(engine: Engine, container: Container, request: pb.UpdateRequest) -> None:
    if container.status in (status.REMOVING, status.DEAD):
        raise Conflict('container is marked for removal and cannot be "update"')
    changed = pb.HostConfig()
    changed.CopyFrom(container.record.host_config)
    if request.HasField("resources"):
        _check_bandwidth(changed.resources, request.resources)
        _check_memory(changed.resources, request.resources)
        merge(changed.resources, request.resources)
    if request.HasField("restart_policy") and request.restart_policy.name:
        _set_policy(changed, request.restart_policy)
    shim = container.shim
    if container.has_process and shim is not None and request.HasField("resources"):
        await shim.call("update", resources=resources(changed, []))
    container.record.host_config.CopyFrom(changed)
    engine.containers.save(container)


def merge(current: pb.Resources, wanted: pb.Resources) -> None:
    """Every field of ``wanted`` that says something and can be changed."""
    for descriptor, value in wanted.ListFields():
        if descriptor.name in _CHANGEABLE:
            setattr(current, descriptor.name, value)
    if wanted.nano_cpus:
        for name in _CPU_BANDWIDTH:
            current.ClearField(name)


def _check_bandwidth(current: pb.Resources, wanted: pb.Resources) -> None:
    if wanted.nano_cpus and (current.cpu_period or current.cpu_quota):
        name = "Period" if current.cpu_period else "Quota"
        raise Conflict(
            f"Conflicting options: Nano CPUs cannot be updated as CPU {name} has already been set"
        )
    if current.nano_cpus and (wanted.cpu_period or wanted.cpu_quota):
        name = "Period" if wanted.cpu_period else "Quota"
        raise Conflict(
            f"Conflicting options: CPU {name} cannot be updated as NanoCPUs has already been set"
        )


def _check_memory(current: pb.Resources, wanted: pb.Resources) -> None:
    """Docker compares with a swap limit of 0 too, so that memory alone cannot be given a limit."""
    if wanted.memory > current.memory_swap and not wanted.memory_swap:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the "
            "memoryswap at the same time"
        )


def _set_policy(host: pb.HostConfig, policy: pb.RestartPolicy) -> None:
    if host.auto_remove and policy.name != "no":
        raise Conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container"
        )
    host.restart_policy.CopyFrom(policy)
