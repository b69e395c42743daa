"""Library of lifecycle: what an image says of a container where its client says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from images.model import ImageConfig
from lifecycle._pb import containers_pb2 as pb


def merge_image(config: pb.Config, image: ImageConfig) -> None:
    """Docker's rules (moby v28.5.2 daemon/commit.go, merge)."""
    config.user = config.user or image.user
    config.working_dir = config.working_dir or image.working_dir
    config.stop_signal = config.stop_signal or image.stop_signal
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
    _merge_healthcheck(config, image)
    # Docker's [""] for "no entrypoint, whatever the image says".
    if list(config.entrypoint.values) == [""]:
        config.ClearField("entrypoint")
    if not config.volumes.values:
        config.ClearField("volumes")  # shown as null, also where the client sent {}


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
