"""Library: JSON objects → frozen dataclasses, driven by the dataclasses' own annotations.

runtime/spec.py declares what config.json may hold and calls ``decode``; nothing else does. As in
Go, ``null`` means absent and unknown keys are ignored; unlike Go, a wrong type is always an error
that names the field. Strings with a NUL byte are refused here, once, because each of them may end
up in a system call.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class InvalidSpec(ValueError):
    """``field`` is the path in the document, such as ``linux.namespaces[2].type``."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field
        self.why = why


ACRONYMS = frozenset({"cpu", "id", "io", "iops", "oom", "tcp"})


def camel(name: str) -> str:
    """The specification's key for a field: ``block_io`` is blockIO, ``class_`` is class."""
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(p.upper() if p in ACRONYMS else p.capitalize() for p in rest)


def decode(kind: type[T], value: object, where: str = "") -> T:
    key: Any = kind
    decoded: T = _decoder(key)(value, where)
    return decoded


# Resolved once per type: get_type_hints is slow, and a spec is decoded on every start.
@functools.cache
def _decoder(kind: Hashable) -> Callable[[Any, str], Any]:
    if dataclasses.is_dataclass(kind):
        return _object(kind)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (each for each in get_args(kind) if each is not type(None))
        return _decoder(inner)
    if origin is tuple:
        return _array(get_args(kind)[0])
    if origin is Mapping:
        return _mapping(get_args(kind)[1])
    scalars: dict[Any, Callable[[Any, str], Any]]
    scalars = {str: _string, int: _integer, bool: _boolean}
    return scalars[kind]


def _object(kind: Any) -> Callable[[Any, str], Any]:
    hints = get_type_hints(kind)
    fields = [
        (field.name, camel(field.name), _lazy(hints[field.name]))
        for field in dataclasses.fields(kind)
    ]
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def build(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise InvalidSpec(where, f"must be an object, not {_name(value)}")
        prefix = where + "." if where else ""
        given = {}
        for name, json_key, convert in fields:
            if (item := value.get(json_key)) is not None:
                given[name] = convert(item, prefix + json_key)
            elif name in required:
                raise InvalidSpec(prefix + json_key, "is required")
        return kind(**given)

    return build


def _lazy(hint: Any) -> Callable[[Any, str], Any]:
    return lambda value, where: _decoder(hint)(value, where)


def _array(item: Any) -> Callable[[Any, str], Any]:
    convert = _decoder(item)

    def build(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise InvalidSpec(where, f"must be an array, not {_name(value)}")
        return tuple(convert(each, f"{where}[{number}]") for number, each in enumerate(value))

    return build


def _mapping(item: Any) -> Callable[[Any, str], Any]:
    convert = _decoder(item)

    def build(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise InvalidSpec(where, f"must be an object, not {_name(value)}")
        return {
            _string(name, where): convert(each, f"{where}.{name}") for name, each in value.items()
        }

    return build


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidSpec(where, f"must be a string, not {_name(value)}")
    if "\0" in value:
        raise InvalidSpec(where, "must not contain a NUL byte")
    return value


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(where, f"must be an integer, not {_name(value)}")
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSpec(where, f"must be true or false, not {_name(value)}")
    return value


def _name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "null")
