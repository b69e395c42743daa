"""Library of lifecycle: making a container's record from what a client and an image say.

The API has checked the form of the request; here stands what needs the image, the kernel or other
objects. Nothing is left of a container whose creation fails: the record is written last, and what
was made on the way is taken back.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack

from common.errors import InternalError, InvalidArgument
from common.ids import new_id, short
from lifecycle import (
    capabilities,
    joined,
    kernel_support,
    links,
    logging_options,
    mountpoints,
    names,
    remap,
    security,
    signals,
    volume_content,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.engine import Engine
from lifecycle.image_defaults import merge_image
from lifecycle.runtimes import BUILT_IN, find_runtime
from lifecycle.spec import MASKED_PATHS, READONLY_PATHS


async def create(engine: Engine, request: pb.CreateContainerRequest) -> pb.CreateContainerReply:
    config, host = request.config, request.host_config
    name = names.check(request.name) if request.name else ""
    warnings = check(engine, config, host)
    image = engine.images.resolve(config.image, request.platform or None) if config.image else None
    fill_host_defaults(engine, host)
    if image:
        merge_image(config, image.config)
    command = _command(config)
    _check_options(host)
    links.resolve(engine.containers, host)
    container_id = new_id()
    _fill_hostname(config, host, container_id)
    with ExitStack() as undo:
        name = name or names.generate(engine.containers.is_taken)
        engine.containers.reserve(name, container_id)
        undo.callback(engine.containers.unreserve, name)
        record = pb.Container(
            id=container_id,
            name=name,
            created=time.time_ns(),
            image_id=image.id if image else "",
            platform="linux",
            config=config,
            host_config=host,
            state=pb.State(status=pb.CREATED),
            path=command[0],
            args=command[1:],
            endpoints=[] if config.network_disabled else _endpoints(host, request.endpoints),
            directory=os.fspath(engine.paths.container(container_id)),
            driver=engine.images.details.storage_driver,
            apparmor_profile=security.parse(host.security_opt.values).apparmor,
        )
        undo.callback(engine.volumes.release, container_id)
        sources = mountpoints.Sources(
            container_id,
            engine.volumes,
            request.read_only_non_recursive,
            lambda reference: engine.containers.find(reference).record,
            engine.images.resolve,
            lambda image: engine.images.details.image_snapshot(image).get("MergedDir", ""),
        )
        record.mounts.extend(await mountpoints.resolve(config, host, sources))
        if host.log_config.type == "json-file":
            record.log_path = f"{record.directory}/{container_id}-json.log"
        os.makedirs(record.directory, mode=0o710)
        undo.callback(shutil.rmtree, record.directory)
        await engine.images.prepare_container(container_id, image)
        await _fill_volumes(engine, record)
        container = engine.containers.add(record)
        undo.pop_all()
        engine.volumes.release(container_id)
    engine.publish(container, "create")
    return pb.CreateContainerReply(id=container_id, warnings=warnings)


async def _fill_volumes(engine: Engine, record: pb.Container) -> None:
    try:
        await volume_content.fill(engine, record, lambda ref: engine.containers.find(ref).record)
    except BaseException:
        await engine.images.remove_container(record.id)
        raise


def _command(config: pb.Config) -> list[str]:
    command = [*config.entrypoint.values, *config.cmd.values]
    if not command:
        raise InvalidArgument("no command specified")
    return command


def check(engine: Engine, config: pb.Config, host: pb.HostConfig) -> list[str]:
    """What needs neither the image nor other containers; the warnings for the client."""
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an "
                "absolute path"
            )
        config.working_dir = posixpath.normpath(config.working_dir)
    if config.stop_signal:
        signals.parse(config.stop_signal)
    capabilities.adjust(host.cap_add.values, host.cap_drop.values, privileged=host.privileged)
    warnings = kernel_support.discard_unsupported(engine.kernel, host.resources)
    remap.check(engine.remap, host)
    host.runtime = host.runtime or engine.options.default_runtime or BUILT_IN
    find_runtime(engine.options, host.runtime)
    return warnings


def fill_host_defaults(engine: Engine, host: pb.HostConfig) -> None:
    options, resources = engine.options, host.resources
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
    if resources.memory > 0 and not resources.memory_swap:
        resources.memory_swap = 2 * resources.memory
    host.ipc_mode = host.ipc_mode or options.default_ipc_mode
    host.shm_size = host.shm_size or options.default_shm_size
    if not host.cgroupns_mode:
        host.cgroupns_mode = _default_cgroup_namespace(engine, privileged=host.privileged)
    joined.resolve(engine.containers, host)
    if labels := security.label_options(host):
        host.security_opt.values.extend(labels)
    if not host.log_config.type:
        host.log_config.type = options.log_driver
    if host.log_config.type == options.log_driver:
        for key, value in options.log_options.items():
            host.log_config.config.setdefault(key, value)
    host.restart_policy.name = host.restart_policy.name or "no"
    if not resources.HasField("oom_kill_disable") and engine.kernel.oom_kill_disable:
        resources.oom_kill_disable = False
    if not host.privileged:
        if not host.HasField("masked_paths"):
            host.masked_paths.values[:] = MASKED_PATHS
        if not host.HasField("readonly_paths"):
            host.readonly_paths.values[:] = READONLY_PATHS


def _default_cgroup_namespace(engine: Engine, *, privileged: bool) -> str:
    if engine.cgroup_version != 2 and privileged:
        return "host"
    default = "private" if engine.cgroup_version == 2 else "host"
    return engine.options.default_cgroupns_mode or default


def _check_options(host: pb.HostConfig) -> None:
    """Docker's driver's and kernel modules' own languages."""
    logging_options.check(host.log_config)
    security.parse(host.security_opt.values)
    for name in host.storage_opt:
        if name.lower() != "size":
            raise InternalError(f"Unknown option {name.lower()}")
        raise InternalError(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
        )


def _fill_hostname(config: pb.Config, host: pb.HostConfig, container_id: str) -> None:
    """One that joins another's network gets the other's name when it starts."""
    if not config.hostname:
        of_host = host.network_mode == "host"
        config.hostname = os.uname().nodename if of_host else short(container_id)


def _endpoints(host: pb.HostConfig, given: Sequence[EndpointSettings]) -> list[EndpointSettings]:
    """What each network is asked for: those given, or else that of --network.

    A host's network goes with whatever is given: its container has no namespace to plug into.
    """
    if host.network_mode.startswith("container:"):
        return []
    endpoints = {item.network: item for item in given}
    if "default" in endpoints:
        main = endpoints.pop("default")
        main.network = host.network_mode
        endpoints.setdefault(host.network_mode, main)
    if not endpoints or (host.network_mode == "host" and "host" not in endpoints):
        endpoints[host.network_mode] = EndpointSettings(network=host.network_mode)
    return list(endpoints.values())
