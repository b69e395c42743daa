"""longshored: one table per object of the API, which both parses JSON and renders it.

A ``Schema`` lists the fields of an object: the JSON name, the attribute of the protobuf message,
and by its class the kind of value. Parsing follows Go's decoder, because clients rely on it: null
is "not given", names match in any case where no exact one does, unknown names are ignored.
Rendering tells null from empty where Docker does, which is what makes a client's comparison of
what it sent with what it reads come out equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from common.errors import InvalidArgument

# What a field renders to that is left out of the object.
OMIT = object()

_GO_NAMES: dict[type, str] = {
    bool: "bool",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def mismatch(value: object, where: str, go_type: str) -> InvalidArgument:
    """Go's words for a JSON value of the wrong kind."""
    kind = _GO_NAMES.get(type(value), "value")
    if (
        kind == "number"
        and go_type not in ("string", "bool")
        and not go_type.startswith(("[", "m"))
    ):
        kind = f"number {value}"
    target = f"struct field {where}" if where else "value"
    return InvalidArgument(
        f"invalid JSON: json: cannot unmarshal {kind} into Go {target} of type {go_type}"
    )


class Field(ABC):
    """One field; ``omit_empty`` leaves a zero value out of the rendered object."""

    __slots__ = ("attribute", "json", "omit_empty")

    def __init__(self, json: str, attribute: str, *, omit_empty: bool = False) -> None:
        self.json = json
        self.attribute = attribute
        self.omit_empty = omit_empty

    @abstractmethod
    def parse(self, value: Any, message: Any, where: str) -> None:
        """Set the attribute from ``value``, which is not null."""

    def render(self, message: Any) -> Any:
        value = getattr(message, self.attribute)
        return OMIT if self.omit_empty and not value else value


class Text(Field):
    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not str:
            raise mismatch(value, where, "string")
        setattr(message, self.attribute, value)


class Flag(Field):
    __slots__ = ()

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not bool:
            raise mismatch(value, where, "bool")
        setattr(message, self.attribute, value)


class OptionalFlag(Flag):
    """null where it was not given."""

    __slots__ = ()

    def render(self, message: Any) -> Any:
        if message.HasField(self.attribute):
            return getattr(message, self.attribute)
        return OMIT if self.omit_empty else None


class Integer(Field):
    __slots__ = ("go_type",)
    RANGES: ClassVar[dict[str, tuple[int, int]]] = {
        "int": (-(1 << 63), (1 << 63) - 1),
        "int64": (-(1 << 63), (1 << 63) - 1),
        "int32": (-(1 << 31), (1 << 31) - 1),
        "uint16": (0, (1 << 16) - 1),
        "uint32": (0, (1 << 32) - 1),
        "uint64": (0, (1 << 64) - 1),
    }

    def __init__(
        self, json: str, attribute: str, go_type: str = "int64", *, omit_empty: bool = False
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.go_type = go_type

    def parse(self, value: Any, message: Any, where: str) -> None:
        low, high = self.RANGES[self.go_type]
        if type(value) is float and value.is_integer():
            value = int(value)  # 1e9: Go refuses it, other clients' encoders write it
        if type(value) is not int or not low <= value <= high:
            raise mismatch(value, where, self.go_type)
        try:
            setattr(message, self.attribute, value)
        except ValueError:
            # Go's int is wider than the message's field, and than anything that makes sense.
            raise InvalidArgument(f"invalid value {value} of {where}: out of range") from None


class OptionalInteger(Integer):
    """null where it was not given."""

    __slots__ = ()

    def render(self, message: Any) -> Any:
        if message.HasField(self.attribute):
            return getattr(message, self.attribute)
        return OMIT if self.omit_empty else None


class Texts(Field):
    """A list of strings that can be null; ``single`` also accepts one string for a list of one."""

    __slots__ = ("single",)

    def __init__(
        self, json: str, attribute: str, *, single: bool = False, omit_empty: bool = False
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.single = single

    def parse(self, value: Any, message: Any, where: str) -> None:
        if self.single and type(value) is str:
            value = [value]
        values = getattr(message, self.attribute)
        values.SetInParent()
        values.values.extend(texts(value, where))

    def render(self, message: Any) -> Any:
        if not message.HasField(self.attribute):
            return OMIT if self.omit_empty else None
        values = list(getattr(message, self.attribute).values)
        return OMIT if self.omit_empty and not values else values


class Keys(Field):
    """A set of strings, in JSON the keys of an object whose values are ``{}``."""

    __slots__ = ("go_type",)

    def __init__(
        self,
        json: str,
        attribute: str,
        go_type: str = "map[string]struct {}",
        *,
        omit_empty: bool = False,
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.go_type = go_type

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not dict:
            raise mismatch(value, where, self.go_type)
        values = getattr(message, self.attribute)
        values.SetInParent()
        values.values.extend(value)

    def render(self, message: Any) -> Any:
        if not message.HasField(self.attribute):
            return OMIT if self.omit_empty else None
        values = getattr(message, self.attribute).values
        return OMIT if self.omit_empty and not values else {key: {} for key in values}


class Map(Field):
    """Strings by strings; ``presence`` is the flag that tells {} from null, if there is one."""

    __slots__ = ("null", "presence")

    def __init__(
        self,
        json: str,
        attribute: str,
        *,
        null: bool = False,
        presence: str = "",
        omit_empty: bool = False,
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.null = null
        self.presence = presence

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not dict:
            raise mismatch(value, where, "map[string]string")
        target = getattr(message, self.attribute)
        for key, item in value.items():
            if item is not None and type(item) is not str:
                raise mismatch(item, f"{where}.{key}", "string")
            target[key] = item or ""
        if self.presence:
            setattr(message, self.presence, True)

    def render(self, message: Any) -> Any:
        value = dict(getattr(message, self.attribute))
        if value:
            return value
        if self.omit_empty:
            return OMIT
        if self.presence:
            return {} if getattr(message, self.presence) else None
        return None if self.null else {}


class Object(Field):
    """A nested object; rendered always if ``always``, else left out or null where not given."""

    __slots__ = ("always", "schema")

    def __init__(
        self,
        json: str,
        attribute: str,
        schema: Schema,
        *,
        always: bool = False,
        omit_empty: bool = False,
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.schema = schema
        self.always = always

    def parse(self, value: Any, message: Any, where: str) -> None:
        target = getattr(message, self.attribute)
        target.SetInParent()
        self.schema.parse(value, target, where)

    def render(self, message: Any) -> Any:
        if self.always or message.HasField(self.attribute):
            return self.schema.render(getattr(message, self.attribute))
        return OMIT if self.omit_empty else None


class Objects(Field):
    """A list of objects; ``presence`` is the message's flag that tells [] from null."""

    __slots__ = ("presence", "schema")

    def __init__(
        self,
        json: str,
        attribute: str,
        schema: Schema,
        *,
        presence: str = "",
        omit_empty: bool = False,
    ) -> None:
        super().__init__(json, attribute, omit_empty=omit_empty)
        self.schema = schema
        self.presence = presence

    def parse(self, value: Any, message: Any, where: str) -> None:
        if type(value) is not list:
            raise mismatch(value, where, f"[]{self.schema.go_type}")
        target = getattr(message, self.attribute)
        for number, item in enumerate(value):
            if item is not None:
                self.schema.parse(item, target.add(), f"{where}.{number}")
        if self.presence:
            setattr(message, self.presence, True)

    def render(self, message: Any) -> Any:
        values = [self.schema.render(item) for item in getattr(message, self.attribute)]
        if values:
            return values
        if self.omit_empty:
            return OMIT
        return [] if not self.presence or getattr(message, self.presence) else None


class Schema:
    """The fields of one object; those of ``embedded`` stand in it but live in a nested message."""

    def __init__(
        self,
        go_type: str,
        fields: Sequence[Field],
        *,
        embedded: tuple[str, Schema] | None = None,
    ) -> None:
        self.go_type = go_type
        self.fields = tuple(fields)
        self.embedded = embedded
        # Attribute of the nested message, or "", and the field.
        self._by_name: dict[str, tuple[str, Field]] = {item.json: ("", item) for item in fields}
        if embedded:
            self._by_name.update((item.json, (embedded[0], item)) for item in embedded[1].fields)
        self._by_lower_name = {name.lower(): found for name, found in self._by_name.items()}

    def parse(self, value: Any, message: Any, where: str) -> None:
        """Fill ``message`` from ``value``; ``where`` is its path for error texts, empty at top."""
        if type(value) is not dict:
            raise mismatch(value, where, self.go_type)
        for name, item in value.items():
            if item is None:
                continue
            found = self._by_name.get(name) or self._by_lower_name.get(name.lower())
            if found is None:
                continue
            nested, field = found
            target = getattr(message, nested) if nested else message
            field.parse(item, target, f"{where}.{field.json}")

    def render(self, message: Any) -> dict[str, Any]:
        rendered = {}
        for field in self.fields:
            value = field.render(message)
            if value is not OMIT:
                rendered[field.json] = value
        if self.embedded:
            rendered.update(self.embedded[1].render(getattr(message, self.embedded[0])))
        return rendered


def texts(value: Any, where: str) -> list[str]:
    """A list of strings; null in it is an empty string, as to Go's decoder."""
    if type(value) is not list:
        raise mismatch(value, where, "[]string")
    for item in value:
        if item is not None and type(item) is not str:
            raise mismatch(item, where, "string")
    return ["" if item is None else item for item in value]
