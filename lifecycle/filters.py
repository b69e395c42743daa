"""Library of lifecycle: the parts of Docker's list filters that several kinds of objects share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from common.errors import InvalidArgument
from common.times import parse_timestamp
from lifecycle._pb.types_pb2 import Filter

Filters = Mapping[str, Sequence[str]]


def by_key(filters: Iterable[Filter], accepted: frozenset[str]) -> Filters:
    """The filters as a mapping; raises Docker's error for a key that ``accepted`` lacks."""
    found: dict[str, list[str]] = {}
    for filter_ in filters:
        if filter_.key not in accepted:
            raise InvalidArgument(f"invalid filter '{filter_.key}'")
        found.setdefault(filter_.key, []).extend(filter_.values)
    return found


def match_labels(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    """Every one of ``wanted``, each ``key`` or ``key=value``, is there."""
    for entry in wanted:
        key, equals, value = entry.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def exclude_labels(labels: Mapping[str, str], unwanted: Sequence[str]) -> bool:
    """None of ``unwanted`` is there (``label!``)."""
    return not any(match_labels(labels, [entry]) for entry in unwanted)


def match_name(name: str, patterns: Sequence[str]) -> bool:
    """Docker takes a name filter as a regular expression, and as plain text where it is none."""
    for pattern in patterns:
        try:
            if re.search(pattern, name):
                return True
        except re.error:
            if pattern in name:
                return True
    return False


def boolean(filters: Filters, key: str) -> bool | None:
    """The value of a yes-or-no filter, None where it is not given."""
    values = filters.get(key)
    if not values:
        return None
    verdicts = {_BOOLEANS.get(value.lower()) for value in values}
    if None in verdicts or len(verdicts) > 1:
        raise InvalidArgument(f"invalid filter '{key}=[{' '.join(values)}]'")
    return verdicts.pop()


def until(filters: Filters) -> int | None:
    """The time of an ``until`` filter, ns since 1970: a timestamp or an age such as 24h."""
    values = filters.get("until")
    if not values:
        return None
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return parse_timestamp(values[0])


_BOOLEANS = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
