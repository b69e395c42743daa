"""Library: the Dockerfile instructions that import and commit accept as ``changes``.

CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR. A
pure function from one configuration to the next.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from common.errors import InvalidArgument
from images.model import Healthcheck, ImageConfig

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(\w+))?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_SHELL = ("/bin/sh", "-c")

Change = Callable[[ImageConfig, str], ImageConfig]


def apply(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    for change in changes:
        for line in _lines(change):
            word, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(word.upper())
            if instruction is None:
                raise InvalidArgument(f"{word} is not a valid change command")
            if not rest.strip():
                raise InvalidArgument(f"{word.upper()} requires at least one argument")
            config = instruction(config, rest.strip())
    return config


def _lines(change: str) -> list[str]:
    joined = re.sub(r"\\[ \t]*\n", "", change)
    lines = (line.strip().replace("\t", " ") for line in joined.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _json_list(text: str) -> tuple[str, ...] | None:
    """The exec form, if it is one; else the text is for a shell."""
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    return None


def _command(config: ImageConfig, text: str) -> tuple[str, ...]:
    values = _json_list(text)
    return (*(config.shell or _SHELL), text) if values is None else values


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, cmd=_command(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, entrypoint=_command(config, text))


def _pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    """``k=v k2="v 2"``, or the old form ``k v``."""
    first = text.split(" ", 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(first[0], first[1].strip())]
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise InvalidArgument(f"{instruction}: {e}") from e
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgument(f"Syntax error - can't find = in {json.dumps(word)}")
        pairs.append((key, value))
    return pairs


def _env(config: ImageConfig, text: str) -> ImageConfig:
    env = dict(item.split("=", 1) for item in config.env)
    env.update(_pairs("ENV", text))
    return replace(config, env=tuple(f"{key}={value}" for key, value in env.items()))


def _label(config: ImageConfig, text: str) -> ImageConfig:
    labels: Mapping[str, str] = config.labels or {}
    return replace(config, labels={**labels, **dict(_pairs("LABEL", text))})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict.fromkeys(config.exposed_ports)
    for word in text.split():
        match = _PORT.fullmatch(word)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if match is None or not 0 < first <= last <= 65535:
            raise InvalidArgument(f"Invalid containerPort: {word.partition('/')[0]}")
        protocol = (match[3] or "tcp").lower()
        if protocol not in ("tcp", "udp", "sctp"):
            raise InvalidArgument(f"Invalid proto: {match[3]}")
        ports.update((f"{port}/{protocol}", None) for port in range(first, last + 1))
    return replace(config, exposed_ports=tuple(ports))


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    volumes = _json_list(text)
    if volumes is None:
        volumes = tuple(text.split())
    if not all(volume.strip() for volume in volumes):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return replace(config, volumes=tuple(dict.fromkeys((*config.volumes, *volumes))))


def _user(config: ImageConfig, text: str) -> ImageConfig:
    if len(text.split()) != 1:
        raise InvalidArgument("USER requires exactly one argument")
    return replace(config, user=text)


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    path = posixpath.normpath(posixpath.join("/", config.working_dir, _unquote(text)))
    return replace(config, working_dir=path)


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    if len(text.split()) != 1:
        raise InvalidArgument("STOPSIGNAL requires exactly one argument")
    return replace(config, stop_signal=text)


def _on_build(config: ImageConfig, text: str) -> ImageConfig:
    trigger = text.split(" ", 1)[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("FROM", "MAINTAINER"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=(*config.on_build, text))


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    options: dict[str, str] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, equals, value = option[2:].partition("=")
        if not equals or name not in _HEALTH_OPTIONS:
            raise InvalidArgument(f"unknown flag: --{name}")
        options[name] = value
        text = text.strip()
    kind, _, rest = text.partition(" ")
    rest = rest.strip()
    if kind.upper() == "NONE":
        if rest:
            raise InvalidArgument("HEALTHCHECK NONE takes no arguments")
        return replace(config, healthcheck=Healthcheck(test=("NONE",)))
    if kind.upper() != "CMD":
        raise InvalidArgument(f"unknown type {json.dumps(kind.upper())} in HEALTHCHECK (try CMD)")
    if not rest:
        raise InvalidArgument("missing command after HEALTHCHECK CMD")
    values = _json_list(rest)
    retries = options.get("retries", "0")
    if not retries.isdigit():
        raise InvalidArgument(f"--retries must be at least 0 (not {retries})")
    health = Healthcheck(
        test=("CMD-SHELL", rest) if values is None else ("CMD", *values),
        interval=_duration(options, "interval"),
        timeout=_duration(options, "timeout"),
        start_period=_duration(options, "start-period"),
        start_interval=_duration(options, "start-interval"),
        retries=int(retries),
    )
    return replace(config, healthcheck=health)


_HEALTH_OPTIONS = frozenset(("interval", "timeout", "start-period", "start-interval", "retries"))


def _duration(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, "0s")
    if text != "0" and not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise InvalidArgument(f'invalid duration "{text}" for --{name}')
    total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if 0 < total < 1_000_000:
        raise InvalidArgument(f"Interval {json.dumps(name)} cannot be less than 1ms")
    return int(total)


_INSTRUCTIONS: dict[str, Change] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
