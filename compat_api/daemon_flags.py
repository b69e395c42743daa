"""longshored: command line and daemon.json to one value for each option, by dockerd's rules.

An option that is given in both places, an unknown flag and an unknown key are errors, with
dockerd's texts. What the values mean together is daemon_config.py's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compat_api.daemon_options import (
    BY_FLAG,
    BY_NAME,
    FLAG,
    LIST,
    MAP,
    NETWORK_OPTIONS,
    NUMBER,
    OPTIONS,
    POOLS,
    REPEATED,
    RUNTIMES,
    SIZE,
    TEXT,
    ULIMITS,
    Option,
)

Values = dict[str, Any]  # by the option's name


class ConfigError(Exception):
    """The engine cannot be started with this; the text says why."""


class FlagError(ConfigError):
    """The command line cannot be read."""


# Kinds whose value in the file is an object; other objects in it only group keys, as "proxies".
_OBJECTS = frozenset((MAP, RUNTIMES, ULIMITS, NETWORK_OPTIONS))
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))

# Actions, which are not options of the engine.
ACTIONS = {"help": "h", "version": "v", "validate": ""}


def parse_flags(arguments: Sequence[str]) -> tuple[Values, frozenset[str]]:
    """Values of the options given, and the actions asked for."""
    values: Values = {}
    actions = set()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, value = _split_flag(argument)
        if flag in ACTIONS:
            actions.add(flag)
            continue
        option = BY_FLAG.get(flag)
        if option is None:
            raise FlagError(f"unknown flag: --{flag}")
        if value is None and option.kind == FLAG:
            value = "true"
        if value is None:
            if not rest:
                raise FlagError(f"flag needs an argument: {argument}")
            value = rest.pop(0)
        try:
            _add(values, option, value)
        except ValueError as error:
            raise FlagError(f'invalid argument "{value}" for "--{flag}" flag: {error}') from None
    return values, frozenset(actions)


def _split_flag(argument: str) -> tuple[str, str | None]:
    """``--name``, ``--name=value``, ``-n``, ``-nvalue`` and ``-n=value``."""
    if argument.startswith("--") and len(argument) > 2:
        name, equals, value = argument[2:].partition("=")
        return name, value if equals else None
    if argument.startswith("-") and len(argument) > 1:
        letter, value = argument[1], argument[2:]
        shorts = {option.short: option.flag for option in OPTIONS if option.short}
        shorts.update({short: name for name, short in ACTIONS.items() if short})
        if letter not in shorts:
            raise FlagError(f"unknown shorthand flag: '{letter}' in {argument}")
        return shorts[letter], value.removeprefix("=") or None
    raise FlagError(f"unknown command: longshored {argument}")


def _add(values: Values, option: Option, text: str) -> None:
    value = _FROM_TEXT[option.kind](text)
    if option.kind in (LIST, POOLS):
        values.setdefault(option.name, []).extend(value)
    elif option.kind == NETWORK_OPTIONS:
        for driver, settings in value.items():
            values.setdefault(option.name, {}).setdefault(driver, {}).update(settings)
    elif option.kind in REPEATED:
        values.setdefault(option.name, {}).update(value)
    else:
        values[option.name] = value


# One string of the command line.


def parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("invalid syntax")


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmgtp]?)(?:i?b)?", text.lower())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2]])


def _pair(text: str) -> dict[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise ValueError("name is missing")
    return {name: value}


def _runtime(text: str) -> dict[str, dict[str, str]]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError(f"invalid runtime argument: {text}")
    return {name.strip().lower(): {"path": path.strip()}}


def _ulimit(text: str) -> dict[str, dict[str, Any]]:
    name, equals, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    if not (name and equals and re.fullmatch(r"-?\d+", soft)):
        raise ValueError(f"invalid ulimit argument: {text}")
    if colon and not re.fullmatch(r"-?\d+", hard):
        raise ValueError(f"invalid ulimit argument: {text}")
    return {name: {"Name": name, "Soft": int(soft), "Hard": int(hard if colon else soft)}}


def _pool(text: str) -> list[dict[str, Any]]:
    pool: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in ("base", "size"):
            raise ValueError(f"unexpected key '{key}' in '{text}'")
        pool[key] = value if key == "base" else int(value)
    return [pool]


def _network_option(text: str) -> dict[str, dict[str, str]]:
    driver, equals, setting = text.partition("=")
    if not (driver and equals and "=" in setting):
        raise ValueError(f"invalid value '{text}': must be driver=key=value")
    return {driver: _pair(setting)}


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    TEXT: str,
    FLAG: parse_bool,
    NUMBER: int,
    SIZE: parse_size,
    LIST: lambda text: [text],
    MAP: _pair,
    RUNTIMES: _runtime,
    ULIMITS: _ulimit,
    POOLS: _pool,
    NETWORK_OPTIONS: _network_option,
}

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    TEXT: (str,),
    FLAG: (bool,),
    NUMBER: (int,),
    SIZE: (int, str),
    LIST: (list,),
    MAP: (dict,),
    RUNTIMES: (dict,),
    ULIMITS: (dict,),
    POOLS: (list,),
    NETWORK_OPTIONS: (dict,),
}


# The file.


def read_file(path: Path, *, must_exist: bool) -> Values:
    try:
        text = path.read_text("utf-8-sig").strip()
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(
                f"unable to configure the daemon with file {path}: open {path}: "
                "no such file or directory"
            ) from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"unable to configure the daemon with file {path}: {error}") from None
    if not text:
        return {}
    try:
        return _check_keys(_flatten(json.loads(text)))
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"unable to configure the daemon with file {path}: {error}") from None


def _flatten(value: Any) -> Values:
    """Keys in groups such as "proxies" count as if they stood at the top."""
    if not isinstance(value, dict):
        raise ConfigError("the file's content is not an object")
    flat: Values = {}
    for key, item in value.items():
        option = BY_NAME.get(key)
        if isinstance(item, dict) and not (option and option.kind in _OBJECTS) and key != "builder":
            flat.update(_flatten(item))
        else:
            flat[key] = item
    return flat


def _check_keys(values: Values) -> Values:
    if "host-gateway-ip" in values:  # the name before there could be several
        values.setdefault("host-gateway-ips", [values.pop("host-gateway-ip")])
    if "builder" in values:
        raise ConfigError("builder is not supported: the builder has no settings")
    unknown = [key for key in values if key not in BY_NAME]
    if unknown:
        raise ConfigError(
            "the following directives don't match any configuration option: " + ", ".join(unknown)
        )
    for key, value in values.items():
        option = BY_NAME[key]
        if type(value) not in _JSON_TYPES[option.kind]:
            raise ConfigError(
                f"cannot unmarshal {json.dumps(value)} into {key} of type {option.kind}"
            )
        if option.kind == SIZE and isinstance(value, str):
            values[key] = parse_size(value)
    return values


def merge(flags: Values, file: Values, path: Path) -> Values:
    # Runtimes may be given in both places; they add up.
    conflicts = [
        f"{name}: (from flag: {flags[name]}, from file: {file[name]})"
        for name in flags
        if name in file and name != "runtimes"
    ]
    if conflicts:
        raise ConfigError(
            f"unable to configure the daemon with file {path}: the following directives are "
            "specified both as a flag and in the configuration file: " + ", ".join(conflicts)
        )
    merged = {**file, **flags}
    if "runtimes" in file and "runtimes" in flags:
        merged["runtimes"] = {**file["runtimes"], **flags["runtimes"]}
    return merged


def help_text() -> str:
    lines = ["Usage:  longshored [OPTIONS]", "", "A container engine for Docker's clients", ""]
    lines.append("Options:")
    rows = [
        (f"-{option.short}, --{option.flag}" if option.short else f"    --{option.flag}", option)
        for option in OPTIONS
        if not option.unsupported
    ]
    width = max(len(f"{name} {option.kind}") for name, option in rows)
    lines += [
        f"  {f'{name} {option.kind}' if option.kind != FLAG else name:<{width}}   {option.help}"
        for name, option in rows
    ]
    lines += ["", "      --validate, -v/--version, -h/--help"]
    return "\n".join(lines)
