"""Library: a line of output as the messages of log servers; pure functions of their arguments.

Used by shim/remotelog.py. What a message says of the container comes from lifecycle, which knows
labels, names and tags.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from shim.logformat import Clock

ERROR, INFO = 3, 6  # severities of syslog, which gelf and the journal share
GELF_CHUNK = 1420
_GELF_HEADER = 12
_MOST_CHUNKS = 128
_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Line:
    stream: str  # stdout or stderr
    text: bytes  # without its newline
    nanoseconds: int
    partial: bool  # more of the line follows

    @property
    def severity(self) -> int:
        return ERROR if self.stream == "stderr" else INFO


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """What the shim is told of a remote driver."""

    driver: str
    network: str  # udp, tcp, unix, unixgram
    address: str  # a number or a path
    port: int = 0
    tag: str = ""
    hostname: str = ""
    fields: dict[str, Any] = field(default_factory=dict)  # of gelf, fluentd, the journal
    facility: int = 3  # syslog's daemon
    format: str = ""
    compression: str = "gzip"
    level: int = 1
    sub_second: bool = False
    asynchronous: bool = False  # a server that is not there is no error
    limit: int = 1 << 20  # bytes that wait for a slow server


def encode(config: RemoteConfig, line: Line) -> list[bytes]:
    """The datagrams, or the pieces of the stream, of one line."""
    match config.driver:
        case "syslog":
            return [_syslog(config, line)] if line.text else []
        case "gelf":
            return _gelf(config, line) if line.text else []
        case "fluentd":
            return [_fluentd(config, line)]
        case _:
            return [_journald(config, line)] if line.text else []


def _syslog(config: RemoteConfig, line: Line) -> bytes:
    """srslog's formatters, with its newline at the end."""
    priority = config.facility * 8 + line.severity
    text = line.text.decode(errors="replace")
    tag, pid, host = config.tag, os.getpid(), config.hostname
    now = time.localtime(line.nanoseconds // 1_000_000_000)
    stamp = f"{time.strftime('%b', now)} {now.tm_mday:2} {time.strftime('%H:%M:%S', now)}"
    if config.format.startswith("rfc5424"):
        micro = f".{line.nanoseconds // 1000 % 1_000_000:06}" if "micro" in config.format else ""
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', now)}{micro}{_zone(now)}"
        return f"<{priority}>1 {stamp} {host} {tag} {pid} {tag} - {text}\n".encode()
    if config.format == "rfc3164":
        return f"<{priority}>{stamp} {host} {tag}[{pid}]: {text}\n".encode()
    return f"<{priority}>{stamp} {tag}[{pid}]: {text}\n".encode()


def _zone(now: time.struct_time) -> str:
    minutes = now.tm_gmtoff // 60
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "Z"


def _gelf(config: RemoteConfig, line: Line) -> list[bytes]:
    message = orjson.dumps(
        {
            "version": "1.1",
            "host": config.hostname,
            "short_message": line.text.decode(errors="replace"),
            "timestamp": line.nanoseconds // 1_000_000 / 1000,
            "level": line.severity,
            **config.fields,
        }
    )
    if config.network != "udp":
        return [message + b"\0"]
    if config.compression == "gzip":
        packer = zlib.compressobj(config.level, wbits=zlib.MAX_WBITS | 16)
        message = packer.compress(message) + packer.flush()
    elif config.compression == "zlib":
        message = zlib.compress(message, config.level)
    return _chunks(message)


def _chunks(message: bytes) -> list[bytes]:
    if len(message) <= GELF_CHUNK:
        return [message]
    size = GELF_CHUNK - _GELF_HEADER
    count = -(-len(message) // size)
    if count > _MOST_CHUNKS:
        return []  # the protocol has no way to say it
    identity = os.urandom(8)
    return [
        b"\x1e\x0f" + identity + bytes((number, count)) + message[number * size :][:size]
        for number in range(count)
    ]


def _fluentd(config: RemoteConfig, line: Line) -> bytes:
    """The forward protocol's message mode: tag, time, record."""
    seconds, rest = divmod(line.nanoseconds, 1_000_000_000)
    stamp = b"\xd7\x00" + struct.pack(">II", seconds, rest) if config.sub_second else pack(seconds)
    record = {**config.fields, "source": line.stream, "log": line.text.decode(errors="replace")}
    if line.partial:
        record["partial_message"] = "true"
    return b"\x93" + pack(config.tag) + stamp + pack(record)


def pack(value: str | int | Mapping[str, Any]) -> bytes:
    """MessagePack of what a record holds."""
    if isinstance(value, int):
        return b"\xce" + struct.pack(">I", value) if value >= 128 else bytes((value,))
    if isinstance(value, str):
        data = value.encode(errors="replace")
        if len(data) < 32:
            return bytes((0xA0 | len(data),)) + data
        if len(data) < 1 << 16:
            return b"\xda" + struct.pack(">H", len(data)) + data
        return b"\xdb" + struct.pack(">I", len(data)) + data
    items = b"".join(pack(str(key)) + pack(str(item)) for key, item in value.items())
    if len(value) < 16:
        return bytes((0x80 | len(value),)) + items
    return b"\xde" + struct.pack(">H", len(value)) + items


def _journald(config: RemoteConfig, line: Line) -> bytes:
    """The journal's native protocol: NAME=value lines, or with a length where it has newlines."""
    fields: dict[str, bytes] = {
        **{name: str(value).encode() for name, value in config.fields.items()},
        "MESSAGE": line.text,
        "PRIORITY": str(line.severity).encode(),
        "SYSLOG_TIMESTAMP": _CLOCK.stamp(line.nanoseconds).encode(),
    }
    if line.partial:
        fields["CONTAINER_PARTIAL_MESSAGE"] = b"true"
    parts = []
    for name, value in fields.items():
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)
