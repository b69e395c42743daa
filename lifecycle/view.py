"""Library of lifecycle: what callers are told of a container: its record and what only now is
known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache

import orjson

from common.errors import EngineError
from lifecycle import archive, links, logging_options, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine


async def inspect(engine: Engine, container: Container, *, size: bool) -> pb.Container:
    """A copy of the record with everything that ``docker inspect`` shows."""
    record = pb.Container()
    record.CopyFrom(container.record)
    record.exec_ids.extend(item.id for item in container.open_execs)
    record.snapshot.update(engine.images.details.container_snapshot(container.id))
    if not record.host_config.network_mode.startswith("container:"):
        record.resolv_conf_path = f"{record.directory}/resolv.conf"
        record.hostname_path = f"{record.directory}/hostname"
        record.hosts_path = f"{record.directory}/hosts"
    if record.host_config.HasField("links"):
        # These have the other containers' names.
        record.host_config.links.values[:] = links.shown(engine.containers, record)
    elif not size and not container.lock.locked():
        record.revision.CopyFrom(_revision(engine, container))
    if size:
        await _add_sizes(engine, container, record)
    return record


def _revision(engine: Engine, container: Container) -> pb.Revision:
    record, execs = container.row.numbers
    instance = engine.containers.revisions.instance
    return pb.Revision(instance=instance, row=container.row.index, record=record, execs=execs)


async def summaries(
    engine: Engine, containers: Iterable[Container], *, size: bool
) -> list[pb.Container]:
    """For a list: the records, and the names that their images have now."""
    # Most containers share their images with others.
    image_id = cache(lambda name: _image_id(engine, name))
    result = []
    for container in containers:
        record = container.record
        if size:
            record = pb.Container()
            record.CopyFrom(container.record)
            await _add_sizes(engine, container, record)
        # What the client named, as long as that still means the same image; else the id.
        named = record.config.image
        record.image_ref = named if image_id(named) == record.image_id else record.image_id
        result.append(record)
    return result


def _image_id(engine: Engine, name: str) -> str:
    """Of the image that has this name now; empty if none has."""
    try:
        return engine.images.resolve(name).id
    except EngineError:
        return ""


async def _add_sizes(engine: Engine, container: Container, record: pb.Container) -> None:
    record.size_rw = await layer_size(engine, container)
    try:
        image_size = engine.images.resolve(record.image_id).size
    except EngineError:
        image_size = 0  # its image was removed by force
    record.size_root_fs = record.size_rw + image_size


async def layer_size(engine: Engine, container: Container) -> int:
    """Bytes of the container's own layer."""
    return await archive.layer_size(engine, container)


def log(container: Container) -> pb.Log:
    record = container.record
    return pb.Log(
        driver=record.host_config.log_config.type,
        path=logging_options.path_of(record),
        tty=record.config.tty,
        running=container.has_process or container.status == status.RESTARTING,
        container_id=container.id,
        config=dict(record.host_config.log_config.config),
    )


async def stats(container: Container) -> pb.Stats:
    """The shim's counters, and the host's to compare them with."""
    result = pb.Stats(
        id=container.id,
        name=container.name,
        memory_limit=min(
            container.record.host_config.resources.memory or total_memory(), total_memory()
        ),
        system_cpu=system_cpu(),
        online_cpus=os.cpu_count() or 1,
    )
    if container.shim is not None and container.has_process:
        try:
            result.json = orjson.dumps(await container.shim.call("stats"))
        except EngineError:
            return result  # it has just ended
    return result


@cache
def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system_cpu() -> int:
    """Nanoseconds that all CPUs have spent since boot, idle time included (proc(5), /proc/stat)."""
    with open("/proc/stat") as file:
        fields = file.readline().split()[1:8]
    return sum(map(int, fields)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
