"""Library of lifecycle: the log drivers that send to a server: their options and what the shim is
told.

The options' checks at create have Docker's texts (moby v28.5.2 daemon/logger, ValidateLogOpt of
each driver); addresses are resolved at the start, so that the shim needs no resolver.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from common.errors import InternalError, InvalidArgument, NotSupported
from common.times import rfc3339_nano
from lifecycle._pb import containers_pb2 as pb

Options = Mapping[str, str]

_COMMON = ("env", "env-regex", "labels", "labels-regex", "tag")
_KEYS = {
    "syslog": frozenset(
        (
            *_COMMON,
            *("syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert"),
            *("syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"),
        )
    ),
    "journald": frozenset(_COMMON),
    "fluentd": frozenset(
        (
            *_COMMON,
            *("fluentd-address", "fluentd-async", "fluentd-async-reconnect-interval"),
            *("fluentd-buffer-limit", "fluentd-max-retries", "fluentd-request-ack"),
            *("fluentd-retry-wait", "fluentd-sub-second-precision", "fluentd-write-timeout"),
        )
    ),
    "gelf": frozenset(
        (
            *_COMMON,
            *("gelf-address", "gelf-compression-level", "gelf-compression-type"),
            *("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"),
        )
    ),
}
DRIVERS = frozenset(_KEYS)
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4"),
    *("local5", "local6", "local7"),
)
_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")


def check(driver: str, options: Options) -> None:
    _CHECKS[driver](options)


def _check_keys(driver: str, options: Options, text: str) -> None:
    for name in options:
        if name not in _KEYS[driver]:
            raise InvalidArgument(text.format(name))


def _check_syslog(options: Options) -> None:
    _check_keys("syslog", options, "unknown log opt '{}' for syslog log driver")
    _syslog_address(options)
    _facility(options)
    if options.get("syslog-format", "") not in ("", "rfc3164", "rfc5424", "rfc5424micro"):
        raise InvalidArgument("Invalid syslog format")


def _check_journald(options: Options) -> None:
    _check_keys("journald", options, "unknown log opt '{}' for journald log driver")


def _check_fluentd(options: Options) -> None:
    _check_keys("fluentd", options, "unknown log opt '{}' for fluentd log driver")
    _fluentd_address(options)
    for name in ("fluentd-async", "fluentd-sub-second-precision", "fluentd-request-ack"):
        flag(options, name)


def _check_gelf(options: Options) -> None:
    address = _gelf_address(options)
    _check_keys("gelf", options, 'unknown log opt "{}" for gelf log driver')
    for name, value in options.items():
        if name.startswith("gelf-compression"):
            if address.scheme != "udp":
                raise InvalidArgument("compression is only supported on UDP")
            levels = [str(level) for level in range(-1, 10)]
            allowed = levels if name.endswith("level") else ["gzip", "zlib", "none"]
            if value not in allowed:
                raise InvalidArgument(
                    f'unknown value "{value}" for log opt "{name}" for gelf log driver'
                )
        elif name.startswith("gelf-tcp"):
            if address.scheme != "tcp":
                raise InvalidArgument(f'"{name}" is only valid for TCP')
            if not value.isdecimal():
                raise InvalidArgument(f'"{name}" must be a positive integer')


_CHECKS: dict[str, Callable[[Options], None]] = {
    "syslog": _check_syslog,
    "journald": _check_journald,
    "fluentd": _check_fluentd,
    "gelf": _check_gelf,
}


def flag(options: Options, name: str) -> bool:
    """As Go's strconv.ParseBool; not given is False."""
    value = options.get(name, "") or "false"
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidArgument(f'strconv.ParseBool: parsing "{value}": invalid syntax')


def _syslog_address(options: Options) -> tuple[str, str, int]:
    text = options.get("syslog-address", "")
    if not text:
        found = [path for path in _SYSLOG_SOCKETS if os.path.exists(path)]
        return "unixgram", (found or [*_SYSLOG_SOCKETS])[0], 0
    address = urlsplit(text)
    if address.scheme in ("unix", "unixgram"):
        if not os.path.exists(address.path):
            raise InvalidArgument(f"stat {address.path}: no such file or directory")
        return address.scheme, address.path, 0
    if address.scheme == "tcp+tls":
        raise NotSupported("syslog over TLS is not supported: use a local relay")
    if address.scheme not in ("udp", "tcp"):
        raise InvalidArgument(f"unsupported scheme: '{address.scheme}'")
    return address.scheme, address.hostname or "", _port(address, 514)


def _facility(options: Options) -> int:
    text = options.get("syslog-facility", "") or "daemon"
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isdecimal() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def _fluentd_address(options: Options) -> tuple[str, str, int]:
    text = options.get("fluentd-address", "")
    what = f"invalid fluentd-address ({text}): "
    address = urlsplit(text if "://" in text else f"tcp://{text}")
    if address.scheme == "unix":
        if not address.path.strip("/"):
            raise InvalidArgument(f"{what}path is empty")
        return "unix", address.path, 0
    if address.scheme == "tls":
        raise NotSupported("fluentd over TLS is not supported: use a local relay")
    if address.scheme != "tcp":
        raise InvalidArgument(f"{what}unsupported scheme: '{address.scheme}'")
    if address.path:
        raise InvalidArgument(f"{what}should not contain a path element")
    return "tcp", address.hostname or "127.0.0.1", _port(address, 24224)


def _gelf_address(options: Options) -> SplitResult:
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidArgument("gelf-address is a required parameter")
    address = urlsplit(text)
    if address.scheme not in ("udp", "tcp"):
        raise InvalidArgument("gelf: endpoint needs to be TCP or UDP")
    if not _port(address, 0):
        raise InvalidArgument("gelf: please provide gelf-address as proto://host:port")
    return address


def _port(address: SplitResult, default: int) -> int:
    try:
        return address.port or default
    except ValueError as error:
        raise InvalidArgument(f"invalid port in {address.geturl()!r}") from error


async def describe(
    record: pb.Container, *, tag: str, extra: Mapping[str, str], limit: int
) -> dict[str, Any]:
    """shim.remoteformats.RemoteConfig of a container."""
    config = record.host_config.log_config
    options = config.config
    result: dict[str, Any] = {
        "driver": config.type,
        "tag": tag,
        "hostname": os.uname().nodename,
        "limit": limit,
    }
    if config.type == "syslog":
        network, host, port = _syslog_address(options)
        result |= {"facility": _facility(options), "format": options.get("syslog-format", "")}
    elif config.type == "gelf":
        address = _gelf_address(options)
        network, host, port = address.scheme, address.hostname or "", _port(address, 0)
        result |= {
            "fields": _gelf_fields(record, tag, extra),
            "compression": options.get("gelf-compression-type", "gzip"),
            "level": int(options.get("gelf-compression-level", "1")),
        }
    elif config.type == "fluentd":
        network, host, port = _fluentd_address(options)
        result |= {
            "fields": {**extra, "container_id": record.id, "container_name": f"/{record.name}"},
            "sub_second": flag(options, "fluentd-sub-second-precision"),
            "asynchronous": flag(options, "fluentd-async"),
        }
    else:
        network, host, port = "unixgram", _JOURNAL, 0
        result["fields"] = _journal_fields(record, tag, extra)
    address_ = await _resolve(host) if port else host
    return {**result, "network": network, "address": address_, "port": port}


async def _resolve(host: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise InternalError(
            "failed to create task for container: failed to initialize logging driver: "
            f"lookup {host}: no such host"
        ) from error
    return str(found[0][4][0])


def _gelf_fields(record: pb.Container, tag: str, extra: Mapping[str, str]) -> dict[str, str]:
    return {
        # An image's labels do not say who it is.
        **{f"_{name}": value for name, value in extra.items()},
        "_container_id": record.id,
        "_container_name": record.name,
        "_image_id": record.image_id,
        "_image_name": record.config.image,
        "_command": " ".join((record.path, *record.args)),
        "_tag": tag,
        "_created": rfc3339_nano(record.created),
    }


def _journal_fields(record: pb.Container, tag: str, extra: Mapping[str, str]) -> dict[str, str]:
    named = ((_journal_name(name), value) for name, value in extra.items())
    return {
        **{name: value for name, value in named if name},
        "CONTAINER_ID": record.id[:12],
        "CONTAINER_ID_FULL": record.id,
        "CONTAINER_NAME": record.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": record.config.image,
        "SYSLOG_IDENTIFIER": tag,
    }


def _journal_name(name: str) -> str:
    """The journal takes capitals, digits and underscores, and no underscore in front."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper()).lstrip("_")
