"""Library of lifecycle: --log-driver and --log-opt, checked at create and told to the shim.

``json-file`` and ``local`` are files of the shim's; local's are rotated and compressed if nothing
else is said, and their lines have the same form, so that there is one writer and one reader.
Drivers that send to a server (log_servers.py) also keep such a file, for ``docker logs``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from common.errors import InternalError, InvalidArgument, NotSupported
from lifecycle import log_servers
from lifecycle._pb import containers_pb2 as pb

_UNSUPPORTED = frozenset({"awslogs", "splunk"})

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_OPTIONS = {
    "json-file": frozenset(
        ("max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag")
    ),
    "local": frozenset(("max-file", "max-size", "compress")),
}
# Of every driver; the cache's are its own copy of what it sends away.
_CACHE = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
_COMMON = frozenset(("mode", "max-buffer-size")) | _CACHE
_LOCAL_DEFAULTS = {"max-size": "20m", "max-file": "5", "compress": "true"}
_DEFAULT_TAG = "{{.ID}}"
_BUFFER = 1 << 20
FAILURE = "failed to create task for container: failed to initialize logging driver: "


def check(config: pb.LogConfig) -> None:
    """At create: raises Docker's error for a driver, an option or a value that there is not."""
    driver, options = config.type, config.config
    if driver in _UNSUPPORTED:
        raise NotSupported(f"log driver {driver} is not supported by this engine")
    if driver != "none" and driver not in _OPTIONS and driver not in log_servers.DRIVERS:
        raise InvalidArgument(
            f'error looking up logging plugin {driver}: plugin "{driver}" not found'
        )
    _check_mode(options)
    if driver == "none":
        return
    own = {name: value for name, value in options.items() if name not in _COMMON}
    if driver in log_servers.DRIVERS:
        log_servers.check(driver, own)
        return
    for name in own:
        if name not in _OPTIONS[driver]:
            what = "log driver local" if driver == "local" else "json-file log driver"
            raise InvalidArgument(f"unknown log opt '{name}' for {what}")


def _check_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    size = options.get("max-buffer-size")
    if size is not None:
        if mode != "non-blocking":
            raise InvalidArgument(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            parse_size(size)
        except InvalidArgument as error:
            raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from error


def path_of(record: pb.Container) -> str:
    """The file that ``docker logs`` reads; empty if there is none."""
    config = record.host_config.log_config
    if config.type == "json-file":
        return record.log_path
    if config.type == "local":
        return f"{record.directory}/local.log"
    if config.type == "none" or log_servers.flag(config.config, "cache-disabled"):
        return ""
    return f"{record.directory}/cached.log"


async def log_config(record: pb.Container) -> dict[str, Any]:
    """The shim's ``log`` of a start; what is wrong with an option's value is found here."""
    try:
        return await _log_config(record)
    except InvalidArgument as error:
        raise InternalError(f"{FAILURE}{error}") from error


async def _log_config(record: pb.Container) -> dict[str, Any]:
    config = record.host_config.log_config
    driver, options = config.type, config.config
    path = path_of(record)
    if driver == "none":
        return {"driver": "none"}
    if driver == "json-file":
        settings = {"attrs": attributes(record), **_json_file(options)}
    elif driver == "local":
        settings = _local(options)
    else:
        prefix = "cache-"
        cache = {
            name.removeprefix(prefix): value
            for name, value in options.items()
            if name.startswith(prefix)
        }
        tag = expand_tag(options.get("tag") or _DEFAULT_TAG, record)
        settings = {
            **_local(cache),
            "remote": await log_servers.describe(
                record,
                tag=tag,
                extra=_chosen(record),
                limit=parse_size(options.get("max-buffer-size") or str(_BUFFER)),
            ),
        }
    return {"driver": driver, "path": path, **settings}


def _json_file(options: Mapping[str, str]) -> dict[str, Any]:
    size = parse_size(options["max-size"]) if options.get("max-size") else None
    files = _number(options.get("max-file", "1"))
    if files < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    compress = log_servers.flag(options, "compress")
    if compress and (files < 2 or size is None):
        raise InvalidArgument(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )
    # Without a size nothing is ever rotated, whatever the number of files.
    return {"max_size": size, "max_file": files, "compress": compress}


def _local(options: Mapping[str, str]) -> dict[str, Any]:
    options = {**_LOCAL_DEFAULTS, **options}
    for name, parse in (("max-size", parse_size), ("max-file", _number)):
        try:
            parse(options[name])
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid value for {name}: {options[name]}: {error}") from error
    return {
        "max_size": parse_size(options["max-size"]),
        "max_file": max(_number(options["max-file"]), 1),
        "compress": log_servers.flag(options, "compress"),
    }


def attributes(record: pb.Container) -> dict[str, str]:
    """What each line of json-file carries: chosen labels and variables, and a tag if asked for."""
    chosen = _chosen(record)
    template = record.host_config.log_config.config.get("tag")
    return {**chosen, "tag": expand_tag(template, record)} if template else chosen


def _chosen(record: pb.Container) -> dict[str, str]:
    """Labels and variables, by the options labels, env and their -regex."""
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
            matches = _regex(pattern)
            chosen |= {name: value for name, value in values.items() if matches.search(name)}
    return chosen


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidArgument(f"error parsing regexp: {error.msg}: `{pattern}`") from error


def expand_tag(template: str, record: pb.Container) -> str:
    """The fields of Docker's log tag templates, and no more of Go's template language."""
    fields = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageID": record.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": record.image_id,
        "ImageName": record.config.image,
        "DaemonName": "docker",
        "Command": " ".join((record.path, *record.args)),
    }

    def expand(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InvalidArgument(
                f'template: log-tag:1:{match.start(1) - 1}: executing "log-tag" at <.{match[1]}>: '
                f"can't evaluate field {match[1]} in type *logger.Info"
            )
        return fields[match[1]]

    expanded = re.sub(r"\{\{\s*\.(\w+)\s*\}\}", expand, template)
    if "{{" in expanded:
        raise InvalidArgument("template: log-tag:1: unclosed action")
    return expanded


def parse_size(text: str) -> int:
    """Bytes of ``10m``; units are powers of 1024 (go-units RAMInBytes)."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
