"""Library of lifecycle: making a container's record from what a client and an image say.

The API has checked the form of the request; here stands what needs the image or other objects.
Nothing is left of a container whose creation fails: the record is written last, and what was made
on the way is taken back.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack

from common.errors import InvalidArgument, NotFound, NotSupported
from common.ids import new_id, short
from images.model import Image, ImageConfig
from lifecycle import (
    capabilities,
    logging_options,
    mountpoints,
    names,
    security,
    signals,
    volume_content,
)
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.networks_pb2 import EndpointSettings
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.runtimes import BUILT_IN, find_runtime
from lifecycle.spec import MASKED_PATHS, READONLY_PATHS


async def create(engine: Engine, request: pb.CreateContainerRequest) -> pb.CreateContainerReply:
    config, host = request.config, request.host_config
    name = names.check(request.name) if request.name else ""
    image = engine.images.resolve(config.image) if config.image else None
    merge_image(config, image.config if image else ImageConfig())
    command = _command(config)
    fill_host_defaults(engine, host)
    check(engine, config, host)
    container_id = new_id()
    _fill_config(engine, config, host, container_id)
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
            endpoints=_endpoints(engine, host, request.endpoints),
            directory=os.fspath(engine.paths.container(container_id)),
            driver="overlay2",
        )
        undo.callback(engine.volumes.release, container_id)
        sources = mountpoints.Sources(
            container_id,
            engine.volumes,
            lambda reference: engine.containers.find(reference).record,
            engine.images.resolve,
            lambda image: engine.images.details.image_snapshot(image).get("MergedDir", ""),
        )
        record.mounts.extend(await mountpoints.resolve(config, host, sources))
        if host.log_config.type == "json-file":
            record.log_path = f"{record.directory}/{container_id}-json.log"
        os.makedirs(record.directory, mode=0o710)
        undo.callback(shutil.rmtree, record.directory)
        await _prepare_snapshot(engine, container_id, image, undo)
        await _fill_volumes(engine, record)
        container = Container(record)
        engine.containers.add(container)
        undo.pop_all()
        engine.volumes.release(container_id)
    engine.publish(container, "create")
    return pb.CreateContainerReply(id=container_id, warnings=warnings(host))


async def _prepare_snapshot(
    engine: Engine, container_id: str, image: Image | None, undo: ExitStack
) -> None:
    if image is None:
        raise InvalidArgument("config cannot be empty in order to create a container")
    await engine.images.prepare_container(container_id, image)


async def _fill_volumes(engine: Engine, record: pb.Container) -> None:
    try:
        await volume_content.fill(engine, record, lambda ref: engine.containers.find(ref).record)
    except BaseException:
        await engine.images.remove_container(record.id)
        raise


def merge_image(config: pb.Config, image: ImageConfig) -> None:
    """What the image says where the client says nothing (moby runconfig/merge)."""
    config.user = config.user or image.user
    config.working_dir = config.working_dir or image.working_dir
    config.stop_signal = config.stop_signal or image.stop_signal
    if not config.HasField("stop_timeout") and image.stop_timeout is not None:
        config.stop_timeout = image.stop_timeout
    _union(config, "exposed_ports", image.exposed_ports)
    _union(config, "volumes", image.volumes)
    given = {entry.partition("=")[0] for entry in config.env.values}
    config.env.values.extend(
        entry for entry in image.env if "=" in entry and entry.partition("=")[0] not in given
    )
    for key, value in (image.labels or {}).items():
        if key not in config.labels:
            config.labels[key] = value
    if not config.entrypoint.values:
        if not config.cmd.values and image.cmd is not None:
            config.cmd.values[:] = image.cmd
        if not config.HasField("entrypoint") and image.entrypoint is not None:
            config.entrypoint.values[:] = image.entrypoint
    if image.shell and not config.shell.values:
        config.shell.values[:] = image.shell
    _merge_healthcheck(config, image)
    # Docker's [""] for "no entrypoint, whatever the image says".
    if list(config.entrypoint.values) == [""]:
        del config.entrypoint.values[:]


def _union(config: pb.Config, field: str, extra: Sequence[str]) -> None:
    if not extra:
        return
    values = getattr(config, field).values
    values.extend(item for item in extra if item not in values)


def _merge_healthcheck(config: pb.Config, image: ImageConfig) -> None:
    inherited = image.healthcheck
    if inherited is None or not inherited.test:
        return
    check_ = config.healthcheck
    if not check_.test.values:
        check_.test.values[:] = inherited.test
    check_.interval = check_.interval or inherited.interval
    check_.timeout = check_.timeout or inherited.timeout
    check_.start_period = check_.start_period or inherited.start_period
    check_.start_interval = check_.start_interval or inherited.start_interval
    check_.retries = check_.retries or inherited.retries


def _command(config: pb.Config) -> list[str]:
    command = [*config.entrypoint.values, *config.cmd.values]
    if not command:
        raise InvalidArgument("no command specified")
    return command


def fill_host_defaults(engine: Engine, host: pb.HostConfig) -> None:
    options = engine.options
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
    host.ipc_mode = host.ipc_mode or options.default_ipc_mode
    host.shm_size = host.shm_size or options.default_shm_size
    host.runtime = host.runtime or options.default_runtime or BUILT_IN
    if not host.cgroupns_mode:
        default = "private" if engine.cgroup_version == 2 and not host.privileged else "host"
        host.cgroupns_mode = options.default_cgroupns_mode or default
    if not host.log_config.type:
        host.log_config.type = options.log_driver
        for key, value in options.log_options.items():
            host.log_config.config.setdefault(key, value)
    host.restart_policy.name = host.restart_policy.name or "no"
    if not host.resources.HasField("oom_kill_disable") and engine.cgroup_version == 1:
        host.resources.oom_kill_disable = False
    if host.privileged:
        host.masked_paths.values[:] = []
        host.readonly_paths.values[:] = []
        host.masked_paths.SetInParent()
        host.readonly_paths.SetInParent()
    if not host.HasField("masked_paths"):
        host.masked_paths.values[:] = MASKED_PATHS
    if not host.HasField("readonly_paths"):
        host.readonly_paths.values[:] = READONLY_PATHS


def check(engine: Engine, config: pb.Config, host: pb.HostConfig) -> None:
    """Everything that would make a start fail for sure, in Docker's words."""
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
    security.parse(host.security_opt.values)
    find_runtime(engine.options, host.runtime)
    logging_options.check(host.log_config)
    if host.resources.device_requests:
        raise NotSupported(
            'could not select device driver "" with capabilities: [[gpu]]: this engine has no '
            "device drivers"
        )
    if host.userns_mode not in ("", "host"):
        raise InvalidArgument("invalid userns mode: user namespaces are not enabled")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f'invalid isolation "{host.isolation}" on linux')
    for mode, kind in (
        (host.network_mode, "network"),
        (host.pid_mode, "PID"),
        (host.ipc_mode, "IPC"),
    ):
        if mode.startswith("container:"):
            _check_joined(engine, mode.removeprefix("container:"), kind)


def _check_joined(engine: Engine, reference: str, kind: str) -> None:
    try:
        engine.containers.find(reference)
    except NotFound as error:
        raise NotFound(f"{error}" if kind == "network" else f"{kind} namespace: {error}") from error


def _fill_config(engine: Engine, config: pb.Config, host: pb.HostConfig, container_id: str) -> None:
    if not config.hostname:
        if host.uts_mode == "host" or host.network_mode == "host":
            config.hostname = os.uname().nodename
        elif host.network_mode.startswith("container:"):
            other = engine.containers.find(host.network_mode.removeprefix("container:"))
            config.hostname = other.record.config.hostname
        else:
            config.hostname = short(container_id)


def _endpoints(
    engine: Engine, host: pb.HostConfig, given: Sequence[EndpointSettings]
) -> list[EndpointSettings]:
    """What each network is asked for; the network of --network is always among them."""
    if host.network_mode.startswith("container:"):
        return []
    endpoints = {item.network: item for item in given}
    if "default" in endpoints:
        main = endpoints.pop("default")
        main.network = host.network_mode
        endpoints.setdefault(host.network_mode, main)
    if host.network_mode not in endpoints:
        endpoints[host.network_mode] = EndpointSettings(network=host.network_mode)
    return list(endpoints.values())


def warnings(host: pb.HostConfig) -> list[str]:
    found = []
    if host.network_mode == "host" and (host.port_bindings or host.publish_all_ports):
        found.append("Published ports are discarded when using host network mode")
    return found
