"""Library of lifecycle: which containers a list or a prune is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from common.errors import InternalError, InvalidArgument, NotFound
from lifecycle import filters as filtering
from lifecycle import status
from lifecycle._pb import containers_pb2 as pb
from lifecycle._pb.types_pb2 import Filter
from lifecycle.container import Container, ContainerTable
from lifecycle.filters import Filters

ACCEPTED = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
PRUNE_ACCEPTED = frozenset({"until", "label", "label!"})

Test = Callable[[Container], bool]


class Listing:
    """A list request, checked; ``ancestors`` turns an image reference into ids of it and its
    children.
    """

    def __init__(
        self,
        table: ContainerTable,
        filters: Iterable[Filter],
        ancestors: Callable[[str], frozenset[str]],
    ) -> None:
        self._table = table
        self._filters = filtering.by_key(filters, ACCEPTED)
        self._ancestors = ancestors
        self._tests = list(self._build())

    def select(self, *, include_stopped: bool, limit: int) -> list[Container]:
        """Newest first. A status or exit filter, and a limit, imply stopped ones, as Docker has
        it.
        """
        everything = include_stopped or limit > 0 or bool({"status", "exited"} & set(self._filters))
        chosen: list[Container] = []
        for container in sorted(self._table, key=lambda item: -item.record.created):
            if not everything and not _is_up(container):
                continue
            if all(test(container) for test in self._tests):
                chosen.append(container)
                if len(chosen) == limit:
                    break
        return chosen

    def _build(self) -> Iterable[Test]:
        wanted = self._filters
        if "id" in wanted:
            yield lambda c: any(_matches(c.id, value) for value in wanted["id"])
        if "name" in wanted:
            yield (
                lambda c: (
                    filtering.match_name(c.name, _bare(wanted["name"]))
                    or (filtering.match_name(f"/{c.name}", wanted["name"]))
                )
            )
        if "label" in wanted:
            yield lambda c: filtering.match_labels(c.record.config.labels, wanted["label"])
        if "status" in wanted:
            yield _status(wanted["status"])
        if "exited" in wanted:
            yield _exited(wanted["exited"])
        if "health" in wanted:
            yield _health(wanted["health"])
        if "ancestor" in wanted:
            images = frozenset().union(*(self._ancestors(ref) for ref in wanted["ancestor"]))
            yield lambda c: c.record.image_id in images
        if "is-task" in wanted:
            task = filtering.boolean(wanted, "is-task")
            yield lambda c: not task
        yield from self._relative()
        yield from _resources(wanted)

    def _relative(self) -> Iterable[Test]:
        for key, sign in (("before", -1), ("since", 1)):
            for reference in self._filters.get(key, ()):
                edge = self._edge(reference)
                yield lambda c, edge=edge, sign=sign: sign * (c.record.created - edge) > 0  # type: ignore[misc]

    def _edge(self, reference: str) -> int:
        try:
            return self._table.find(reference).record.created
        except NotFound as error:
            raise NotFound(f"No such container: {reference}") from error


def _is_up(container: Container) -> bool:
    return container.status in (status.RUNNING, status.PAUSED, status.RESTARTING)


def _matches(text: str, pattern: str) -> bool:
    try:
        return re.match(pattern, text) is not None
    except re.error:
        return text.startswith(pattern)


def _bare(patterns: Sequence[str]) -> list[str]:
    return [pattern.replace("^/", "^").removeprefix("/") for pattern in patterns]


def _status(values: Sequence[str]) -> Test:
    by_name = {name: number for number, name in status.NAMES.items()}
    for value in values:
        if value not in by_name:
            raise InvalidArgument(
                f"invalid filter 'status={value}': invalid value for state ({value}): must be one "
                "of created, running, paused, restarting, removing, exited, dead"
            )
    chosen = {by_name[value] for value in values}
    return lambda container: container.status in chosen


def _exited(values: Sequence[str]) -> Test:
    for value in values:
        if not re.fullmatch("[+-]?[0-9]+", value):
            raise InvalidArgument(
                f"invalid filter 'exited={value}': "
                f'strconv.Atoi: parsing "{value}": invalid syntax'
            )
    codes = {int(value) for value in values}
    return lambda c: (
        not _is_up(c) and c.status != status.CREATED and c.record.state.exit_code in codes
    )


def _health(values: Sequence[str]) -> Test:
    for value in values:
        if value not in ("starting", "healthy", "unhealthy", "none"):
            raise InvalidArgument(
                f"invalid filter 'health={value}': invalid value for health ({value}): must be one "
                "of none, starting, healthy, unhealthy"
            )

    def test(container: Container) -> bool:
        state = container.record.state
        return (state.health.status if state.HasField("health") else "none") in values

    return test


def _resources(wanted: Filters) -> Iterable[Test]:
    if "volume" in wanted:
        volumes = set(wanted["volume"])
        yield lambda c: any(
            point.name in volumes or point.destination in volumes for point in c.record.mounts
        )
    if "network" in wanted:
        networks = set(wanted["network"])
        yield lambda c: any(
            endpoint.network in networks
            or any(endpoint.network_id.startswith(name) for name in networks)
            for endpoint in c.record.endpoints
        )
    if "publish" in wanted:
        published = set().union(*(_ports("publish", text) for text in wanted["publish"]))
        yield lambda c: not published.isdisjoint(_published(c))
    if "expose" in wanted:
        exposed = set().union(*(_ports("expose", text) for text in wanted["expose"]))
        yield lambda c: any(binding.port in exposed for binding in c.record.ports)


def _ports(key: str, text: str) -> set[str]:
    """``80``, ``80/udp`` or ``80-90/tcp``, each port with its protocol; tcp if none is named."""
    if ":" in text:
        raise InternalError(f"filter for '{key}' should not contain ':': {text}")
    numbers, _, protocol = text.partition("/")
    where = f"error while looking up for {key} {text}: "
    if not numbers:
        raise InternalError(where + "Empty string specified for ports.")
    first, dash, last = numbers.partition("-")
    low = _number(first, where)
    high = _number(last, where) if dash else low
    if high < low:
        raise InternalError(f"{where}Invalid range specified for the Port: {numbers}")
    return {f"{number}/{protocol.lower() or 'tcp'}" for number in range(low, high + 1)}


def _number(text: str, where: str) -> int:
    # Docker lets Go's parser error through unclassified, which makes it a 500.
    if not (text.isascii() and text.isdecimal()):
        raise InternalError(f'{where}strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) > 65535:
        raise InternalError(f'{where}strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _published(container: Container) -> set[str]:
    """Ports of the host, with their protocols."""
    return {
        f"{host.host_port}/{binding.port.partition('/')[2]}"
        for binding in container.record.ports
        for host in binding.host
    }


def prunable(table: ContainerTable, filters: Iterable[Filter]) -> list[Container]:
    wanted = filtering.by_key(filters, PRUNE_ACCEPTED)
    until = filtering.until(wanted)
    return [
        container
        for container in table
        if container.status in (pb.CREATED, pb.EXITED, pb.DEAD)
        and (until is None or container.record.created < until)
        and filtering.match_labels(container.record.config.labels, wanted.get("label", ()))
        and filtering.exclude_labels(container.record.config.labels, wanted.get("label!", ()))
    ]
