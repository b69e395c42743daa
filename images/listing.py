"""Library: which images a list or a prune is about, and what they occupy.

Filters arrive as Docker's map of lists, already decoded; their meaning is moby v28.5's
(daemon/images/images.go).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from common.errors import InternalError, InvalidArgument
from images import reference
from images.model import DiskUsage, HistoryItem, Image
from images.store import ImageStore

Filters = Mapping[str, Sequence[str]]

_LIST = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
_PRUNE = frozenset(("dangling", "label", "label!", "until"))
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d+))?(Z|[+-]\d{2}:\d{2})", re.IGNORECASE
)


# A star, a question mark, a class of characters, an escaped character, or any other.
_PATTERN = re.compile(
    r"\*|\?|\[(?P<not>\^)?(?P<class>(?:[^\\\[\]]|\\.)+)\]|\\.|[^\\*?\[]", re.DOTALL
)


def select(
    images: Iterable[Image], filters: Filters, resolve: Callable[[str], Image]
) -> list[Image]:
    """Those that pass all filters; newest first."""
    _check_names(filters, _LIST)
    chosen = _common(images, filters)
    dangling = flag(filters, "dangling")
    if dangling is not None:
        chosen = [image for image in chosen if is_dangling(image) == dangling]
    for name in filters.get("before", ()):
        limit = created_ns(resolve(name))
        chosen = [image for image in chosen if created_ns(image) < limit]
    for name in filters.get("since", ()):
        limit = created_ns(resolve(name))
        chosen = [image for image in chosen if created_ns(image) > limit]
    patterns = filters.get("reference", ())
    if patterns:
        named = (_only_matching(image, patterns) for image in chosen)
        chosen = [image for image in named if image.repo_tags or image.repo_digests]
    return sorted(chosen, key=created_ns, reverse=True)


def prunable(images: Iterable[Image], filters: Filters) -> list[Image]:
    _check_names(filters, _PRUNE)
    dangling = flag(filters, "dangling")
    chosen = _common(images, filters)
    return chosen if dangling is False else [image for image in chosen if is_dangling(image)]


def is_dangling(image: Image) -> bool:
    return not image.repo_tags


def created_ns(image: Image) -> int:
    return parse_time(image.created) if image.created else 0


def parse_time(text: str) -> int:
    """RFC 3339 to ns since 1970; 0 for what is not a time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    zone = "+00:00" if match[3] in "Zz" else match[3]
    try:
        seconds = int(datetime.fromisoformat(match[1] + zone).timestamp())
    except (ValueError, OverflowError):
        return 0
    return seconds * 10**9 + int((match[2] or "0")[:9].ljust(9, "0"))


def matches_reference(pattern: str, name: str) -> bool:
    """As Go's path.Match, which Docker uses."""
    expression, at = "", 0
    while at < len(pattern):
        match = _PATTERN.match(pattern, at)
        if match is None:
            raise InternalError("syntax error in pattern")
        at = match.end()
        if match["class"]:
            expression += f"[{'^' if match['not'] else ''}{match['class']}]"
        else:
            expression += {"*": "[^/]*", "?": "[^/]"}.get(match[0], re.escape(match[0][-1]))
    return re.fullmatch(expression, name) is not None


def _only_matching(image: Image, patterns: Sequence[str]) -> Image:
    """The image with those of its names that match, with their tag or without it."""

    def matching(names: Sequence[str]) -> tuple[str, ...]:
        found = []
        for name in names:
            bare = reference.parse(name).familiar_name
            if any(matches_reference(p, name) or matches_reference(p, bare) for p in patterns):
                found.append(name)
        return tuple(found)

    return replace(
        image, repo_tags=matching(image.repo_tags), repo_digests=matching(image.repo_digests)
    )


def _common(images: Iterable[Image], filters: Filters) -> list[Image]:
    chosen = list(images)
    for wanted in filters.get("label", ()):
        chosen = [image for image in chosen if _has_label(image, wanted)]
    for unwanted in filters.get("label!", ()):
        chosen = [image for image in chosen if not _has_label(image, unwanted)]
    for until in filters.get("until", ()):
        limit = _until(until)
        chosen = [image for image in chosen if created_ns(image) < limit]
    return chosen


def _has_label(image: Image, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    labels = image.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _until(text: str) -> int:
    """A time, seconds since 1970, or a duration before now (``24h``, ``1h30m``)."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 10**9)
    units = {"h": 3600, "m": 60, "s": 1}
    if re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
        ago = sum(float(number) * units[unit] for number, unit in parts)
        return int((datetime.now(UTC).timestamp() - ago) * 10**9)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        # Docker classifies this as its own failure, not the client's.
        raise InternalError(f'failed to parse value as time or duration: "{text}"') from e
    return int((moment if moment.tzinfo else moment.astimezone()).timestamp() * 10**9)


def _check_names(filters: Filters, known: frozenset[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")


def flag(filters: Filters, name: str) -> bool | None:
    values = filters.get(name, ())
    if not values:
        return None
    meaning = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
    if len(values) > 1 or values[0].lower() not in meaning:
        raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")
    return meaning[values[0].lower()]


def history(image: Image, store: ImageStore) -> list[HistoryItem]:
    """Newest first, with the size of each entry's layer."""
    sizes = store.layer_sizes()
    layers = iter(image.chain_ids)
    items = []
    for entry in image.history:
        chain_id = None if entry.empty_layer else next(layers, None)
        items.append(
            HistoryItem(
                id="<missing>",
                created=entry.created,
                created_by=entry.created_by,
                comment=entry.comment,
                size=sizes.get(chain_id, 0) if chain_id else 0,
                tags=(),
            )
        )
    if items:
        newest = items[-1]
        items[-1] = HistoryItem(
            image.id,
            newest.created,
            newest.created_by,
            newest.comment,
            newest.size,
            image.repo_tags,
        )
    return items[::-1]


def disk_usage(images: Sequence[Image], store: ImageStore) -> DiskUsage:
    sizes = store.layer_sizes()
    used = Counter(chain_id for image in images for chain_id in image.chain_ids)
    return DiskUsage(
        layers_size=sum(sizes.get(chain_id, 0) for chain_id in used),
        image_sizes={image.id: image.size for image in images},
        shared_sizes={
            image.id: sum(sizes.get(c, 0) for c in image.chain_ids if used[c] > 1)
            for image in images
        },
    )
