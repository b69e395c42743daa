"""Process ``longshore-lifecycle``: ``--data-root X --exec-root Y --options-fd N``.

Started by longshored. Holds a lock on the data root, so that no two engines write it; opens
everything, adopts the containers that run, then serves gRPC. SIGTERM ends it and leaves the
containers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import setproctitle

from common.database import Database
from common.errors import InternalError, InvalidArgument
from common.options import EngineOptions
from common.paths import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, Paths
from common.revisions import Table
from images.endpoints import RegistryOptions
from images.service import ImageService
from images.snapshots import OVERLAY
from lifecycle import apparmor, exits, host, mapped_overlay, restore
from lifecycle._pb import (
    containers_pb2_grpc,
    images_pb2_grpc,
    networks_pb2_grpc,
    system_pb2_grpc,
)
from lifecycle.container import ContainerTable
from lifecycle.engine import Engine
from lifecycle.events import EventLog
from lifecycle.networks import NetworkService
from lifecycle.plugins import Plugins
from lifecycle.remap import Remap
from lifecycle.remote_calls import RemoteCalls
from lifecycle.remote_networks import RemoteNetworks
from lifecycle.services.containers import Containers, Execs
from lifecycle.services.errors import ErrorInterceptor
from lifecycle.services.images import Images
from lifecycle.services.networks import Networks, Volumes
from lifecycle.services.system import System
from lifecycle.shims import Zygote
from lifecycle.streams import StreamRegistry
from lifecycle.surroundings import DEFAULT_CGROUP_PARENT
from lifecycle.volumes import VolumeService
from runtime import cgroups

log = logging.getLogger("longshore-lifecycle")

SCRATCH = "snapshots/own-remap"  # swept with the other unfinished things there
GRACE_SECONDS = 1.0  # for calls under way when the process is told to end

GRPC_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.so_reuseport", 0),
]


class GenericHandlers:
    """Stands in for the server when the generated code adds a service to it.

    The code adds each method twice. For those that are "registered" grpc.aio has one task a method,
    and goes through all of them at every call, which took a third of this process's time.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, *_service: object) -> None:
        pass


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = _parse(arguments)
    paths = Paths(parsed.data_root, parsed.exec_root)
    options = _read_options(parsed.options_fd)
    logging.basicConfig(
        level=logging.DEBUG
        if options.debug
        else options.log_level.upper().replace("FATAL", "CRITICAL"),
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    title = "longshore-lifecycle"
    if paths.exec_root != DEFAULT_EXEC_ROOT:
        title += f" {paths.exec_root}"
    setproctitle.setproctitle(title)
    for directory in (paths.data_root, paths.exec_root):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = _lock(paths.data_root)
    try:
        asyncio.run(serve(paths, options))
    except InvalidArgument as error:  # of an option that only the data root could judge
        sys.exit(f"longshore-lifecycle: {error}")
    finally:
        os.close(lock)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="longshore-lifecycle", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=DEFAULT_DATA_ROOT)
    parser.add_argument("--exec-root", type=Path, default=DEFAULT_EXEC_ROOT)
    parser.add_argument("--options-fd", type=int, help="descriptor with the options as JSON")
    return parser.parse_args(arguments)


def _read_options(descriptor: int | None) -> EngineOptions:
    if descriptor is None:
        return EngineOptions()
    with open(descriptor, "rb") as file:
        return EngineOptions.from_json(file.read())


def _lock(data_root: Path) -> int:
    """Held until the process ends; the kernel lets go of it even after kill -9."""
    descriptor = os.open(data_root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"longshore-lifecycle: {data_root} is another engine's: use another --data-root")
    return descriptor


async def serve(paths: Paths, options: EngineOptions) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cgroups.leave_root()
    kernel = host.look()
    _load_default_profile()
    engine = await build(paths, options, kernel)
    server = _server(engine, kernel)
    _watch_firewall(engine)
    try:
        await engine.zygote.open()
        engine.streams.open()
        await restore.restore(engine)
        server.add_insecure_port(f"unix:{paths.lifecycle_socket}")
        mask = os.umask(0o177)
        await server.start()
        os.umask(mask)
        paths.lifecycle_pid.write_text(f"{os.getpid()}\n")
        log.info("serving on %s", paths.lifecycle_socket)
        # What is loaded now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await stop.wait()
    finally:
        await server.stop(GRACE_SECONDS)
        await close(engine)
        paths.lifecycle_pid.unlink(missing_ok=True)


def _load_default_profile() -> None:
    """Who needs it and cannot have it gets the error again."""
    try:
        apparmor.ensure_default()
    except InternalError as error:
        log.error("%s", error)


async def build(paths: Paths, options: EngineOptions, kernel: host.Host) -> Engine:
    """Open every part but for the processes and sockets; see ``serve``."""
    mapping = _remap(options)
    database = Database(paths.database)
    events = EventLog()
    containers = ContainerTable(database, Table(paths.revisions))
    plugins = Plugins()
    images = ImageService(
        paths.data_root,
        database,
        registries=_registries(options),
        storage_driver=options.storage_driver or "",
    )
    await images.open()
    if mapping is not None and images.details.storage_driver == OVERLAY:
        mapped_overlay.try_out(mapping, paths.data_root / SCRATCH)
    networks = NetworkService(database, paths, options, events)
    warnings = kernel.warnings + networks.start()
    engine = Engine(
        paths=paths,
        options=options,
        database=database,
        events=events,
        containers=containers,
        images=images,
        networks=networks,
        remote=RemoteNetworks(
            networks, RemoteCalls(database, plugins, lambda work, name: engine.spawn(work, name))
        ),
        volumes=VolumeService(
            database, paths.volumes, events, lambda: _volume_users(containers), plugins
        ),
        plugins=plugins,
        zygote=Zygote(paths, busy=lambda: engine.requests > 0),
        streams=StreamRegistry(paths.streams_socket),
        engine_id=_engine_id(paths.data_root),
        kernel=kernel,
        warnings=warnings,
        remap=mapping,
        on_shim_event=lambda container, event: exits.on_event(engine, container, event),
        on_shim_close=lambda container: exits.on_close(engine, container),
        on_start_failed=lambda container: exits.on_start_failed(engine, container),
    )
    for warning in warnings:
        log.warning("%s", warning)
    return engine


def _remap(options: EngineOptions) -> Remap | None:
    if not options.userns_remap:
        return None
    from lifecycle import remap_setting  # other engines do without its memory

    return remap_setting.open_remap(options.userns_remap)


def _watch_firewall(engine: Engine) -> None:
    """Put back at once what ``nft flush ruleset`` or a firewall's reload takes away."""
    watched = engine.networks.firewall_fileno()
    if watched is None:
        return

    def repair() -> None:
        if engine.networks.repair_firewall():
            log.warning("another program removed rules of this engine's; they are back")

    asyncio.get_running_loop().add_reader(watched, repair)


async def close(engine: Engine) -> None:
    await engine.cancel_tasks()
    watched = engine.networks.firewall_fileno()
    if watched is not None:
        asyncio.get_running_loop().remove_reader(watched)
    engine.streams.close()
    await engine.images.close()
    await engine.zygote.close()
    engine.networks.close()
    engine.database.close()
    _remove_cgroup_parent(engine.options.cgroup_parent or DEFAULT_CGROUP_PARENT)


def _remove_cgroup_parent(path: str) -> None:
    """Where no container runs on, nothing shall be left; else the kernel refuses."""
    for directory in set(cgroups.manager(path).paths.values()):
        with suppress(OSError):
            os.rmdir(directory)


def _server(engine: Engine, kernel: host.Host) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=GRPC_OPTIONS)
    handlers: Any = GenericHandlers(server)
    containers_pb2_grpc.add_ContainersServicer_to_server(Containers(engine), handlers)
    containers_pb2_grpc.add_ExecsServicer_to_server(Execs(engine), handlers)
    images_pb2_grpc.add_ImagesServicer_to_server(Images(engine), handlers)
    networks_pb2_grpc.add_NetworksServicer_to_server(Networks(engine), handlers)
    networks_pb2_grpc.add_VolumesServicer_to_server(Volumes(engine), handlers)
    system_pb2_grpc.add_SystemServicer_to_server(System(engine, kernel), handlers)
    return server


def _volume_users(containers: ContainerTable) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for container in containers:
        for point in container.record.mounts:
            if point.type == "volume":
                users.setdefault(point.name, []).append(container.id)
    return users


def _registries(options: EngineOptions) -> RegistryOptions:
    return RegistryOptions(
        mirrors=options.registry_mirrors,
        insecure=options.insecure_registries,
        max_downloads=options.max_concurrent_downloads,
        max_uploads=options.max_concurrent_uploads,
        max_attempts=options.max_download_attempts,
    )


def _engine_id(data_root: Path) -> str:
    """The id that ``docker info`` shows, made once for a data root."""
    path = data_root / "engine-id"
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text()
