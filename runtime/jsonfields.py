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

    def below(self, parent: str) -> InvalidSpec:
        """The same, seen from outside ``parent``; so that no path is made where all is well."""
        dot = "." if parent and self.field and not self.field.startswith("[") else ""
        return InvalidSpec(parent + dot + self.field, self.why)


ACRONYMS = frozenset({"cpu", "id", "io", "iops", "oom", "tcp"})


def camel(name: str) -> str:
    """The specification's key for a field: ``block_io`` is blockIO, ``class_`` is class."""
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(p.upper() if p in ACRONYMS else p.capitalize() for p in rest)


def decode(kind: type[T], value: object, where: str = "") -> T:
    """``value`` as a ``kind``; ``where`` is its own path in the document."""
    key: Any = kind
    try:
        decoded: T = _decoder(key)(value)
    except InvalidSpec as error:
        raise error.below(where) from None
    return decoded


# Made once per type, with those of all its fields: get_type_hints is slow.
@functools.cache
def _decoder(kind: Hashable) -> Callable[[Any], Any]:
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
    scalars: dict[Any, Callable[[Any], Any]]
    scalars = {str: _string, int: _integer, bool: _boolean}
    return scalars[kind]


def _object(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    fields = {
        camel(field.name): (field.name, _decoder(hints[field.name]))
        for field in dataclasses.fields(kind)
    }
    required = [
        camel(field.name)
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def build(value: Any) -> Any:
        if type(value) is not dict:
            raise InvalidSpec("", f"must be an object, not {_name(value)}")
        given = {}
        for json_key, item in value.items():
            if item is not None and json_key in fields:
                name, convert = fields[json_key]
                try:
                    given[name] = convert(item)
                except InvalidSpec as error:
                    raise error.below(json_key) from None
        for json_key in required:
            if value.get(json_key) is None:
                raise InvalidSpec(json_key, "is required")
        return kind(**given)

    return build


def _array(item: Any) -> Callable[[Any], Any]:
    convert = _decoder(item)

    def build(value: Any) -> Any:
        if type(value) is not list:
            raise InvalidSpec("", f"must be an array, not {_name(value)}")
        result: list[Any] = []
        try:
            for each in value:
                result.append(convert(each))  # noqa: PERF401 - its length tells which one failed
        except InvalidSpec as error:
            raise error.below(f"[{len(result)}]") from None
        return tuple(result)

    return build


def _mapping(item: Any) -> Callable[[Any], Any]:
    convert = _decoder(item)

    def build(value: Any) -> Any:
        if type(value) is not dict:
            raise InvalidSpec("", f"must be an object, not {_name(value)}")
        result = {}
        for name, each in value.items():
            _string(name)
            try:
                result[name] = convert(each)
            except InvalidSpec as error:
                raise error.below(name) from None
        return result

    return build


def _string(value: Any) -> str:
    if type(value) is not str:
        raise InvalidSpec("", f"must be a string, not {_name(value)}")
    if "\0" in value:
        raise InvalidSpec("", "must not contain a NUL byte")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise InvalidSpec("", f"must be an integer, not {_name(value)}")
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise InvalidSpec("", f"must be true or false, not {_name(value)}")
    return value


def _name(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "null")
