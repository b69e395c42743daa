"""Library of lifecycle: --log-opt of the json-file driver, as the shim takes them."""

from __future__ import annotations

import re
from typing import Any

from common.errors import InvalidArgument, NotSupported
from lifecycle._pb import containers_pb2 as pb

DRIVERS = ("json-file", "none")
DOCKERS_OTHER_DRIVERS = frozenset(
    {"local", "syslog", "journald", "fluentd", "gelf", "awslogs", "splunk", "gcplogs", "etwlogs"}
)

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_OPTIONS = frozenset(
    ["max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"]
)
_COMMON = frozenset({"mode", "max-buffer-size"})


def check(config: pb.LogConfig) -> None:
    """Raises Docker's error for a driver or an option of one that there is not."""
    if config.type in DOCKERS_OTHER_DRIVERS:
        raise NotSupported(f"log driver {config.type} is not supported: use json-file or none")
    if config.type not in DRIVERS:
        raise InvalidArgument(
            f'error looking up logging plugin {config.type}: plugin "{config.type}" not found'
        )
    if config.type == "none":
        return
    for name in config.config:
        if name not in _OPTIONS | _COMMON:
            raise InvalidArgument(f"unknown log opt '{name}' for json-file log driver")
    log_config_options(config)


def log_config_options(config: pb.LogConfig) -> dict[str, Any]:
    options = config.config
    size = parse_size(options["max-size"]) if options.get("max-size") else None
    files = _positive(options.get("max-file", "1"))
    compress = options.get("compress", "false").lower() in ("true", "1", "t")
    if files > 1 and size is None:
        raise InvalidArgument("max-size must be set to use max-file greater than 1")
    return {"max_size": size, "max_file": files, "compress": compress}


def log_config(record: pb.Container) -> dict[str, Any]:
    """The shim's ``log`` of a start."""
    config = record.host_config.log_config
    if config.type == "none":
        return {"driver": "none"}
    return {
        "driver": config.type,
        "path": record.log_path,
        "attrs": attributes(record),
        **log_config_options(config),
    }


def attributes(record: pb.Container) -> dict[str, str]:
    """Labels and variables that each line carries, by the options labels, env and their -regex."""
    options = record.host_config.log_config.config
    labels = dict(record.config.labels)
    env = dict(entry.split("=", 1) for entry in record.config.env.values if "=" in entry)
    chosen: dict[str, str] = {}
    for values, names, pattern in (
        (labels, options.get("labels"), options.get("labels-regex")),
        (env, options.get("env"), options.get("env-regex")),
    ):
        for name in (names or "").split(","):
            if name in values:
                chosen[name] = values[name]
        if pattern:
            chosen |= {name: value for name, value in values.items() if re.search(pattern, name)}
    if options.get("tag"):
        chosen["tag"] = expand_tag(options["tag"], record)
    return chosen


def expand_tag(template: str, record: pb.Container) -> str:
    """The fields of Docker's log tag templates; others are left as they are."""
    fields = {
        ".ID": record.id[:12],
        ".FullID": record.id,
        ".Name": record.name,
        ".ImageID": record.image_id.removeprefix("sha256:")[:12],
        ".ImageFullID": record.image_id,
        ".ImageName": record.config.image,
        ".DaemonName": "docker",
    }
    return re.sub(r"\{\{\s*(\.\w+)\s*\}\}", lambda match: fields.get(match[1], match[0]), template)


def parse_size(text: str) -> int:
    """Bytes of ``10m``; units are powers of 1024 (go-units RAMInBytes)."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return int(text)
