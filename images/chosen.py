"""Library: which images a save is about, and what the worker has to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.errors import InternalError, InvalidArgument, NotFound
from images import reference
from images.model import Image, Platform
from images.store import ImageStore


def find(store: ImageStore, names: Sequence[str], platform: str | None) -> list[dict[str, Any]]:
    """Each image once, with all its names among the given ones."""
    tags_of: dict[str, list[str]] = {}
    for image, tags in (found for name in names for found in _named(store, name)):
        picked = _of_platform(store, image, tags, platform) if platform else image
        known = tags_of.setdefault(picked.id, [])
        known += [tag for tag in tags if tag not in known]
    return [
        {
            "references": tags,
            "siblings": [
                store.contents(store.get(sibling))
                for sibling in (store.siblings(image_id) if tags and not platform else ())
            ],
            **store.contents(store.get(image_id)),
        }
        for image_id, tags in tags_of.items()
    ]


def _named(store: ImageStore, name: str) -> list[tuple[Image, list[str]]]:
    """A repository's name means all its tags; an id or a digest, none."""
    try:
        wanted = None if reference.is_image_id(name) else reference.parse(name)
    except InvalidArgument:
        wanted = None  # an id: else resolving it fails in Docker's words
    if wanted is not None and wanted.familiar_name == "sha256":
        wanted = None
    if wanted is not None and wanted.tag is None and wanted.digest is None:
        tagged = store.repository_tags(wanted.repository)
        if tagged:
            return [
                (store.get(image_id), [f"{wanted.repository}:{tag}"]) for tag, image_id in tagged
            ]
    if wanted is not None and wanted.tag and store.lookup(wanted) is None:
        raise NotFound("reference does not exist")
    image = store.resolve(name, exact=True)
    if wanted is None or wanted.tag is None or reference.is_id_of(image.id, name):
        return [(image, [])]
    return [(image, [f"{wanted.repository}:{wanted.tag}"])]


def _of_platform(store: ImageStore, image: Image, tags: Sequence[str], platform: str) -> Image:
    wanted = Platform.parse(platform)
    siblings = map(store.get, store.siblings(image.id) if tags else ())
    for candidate in (image, *siblings):
        if wanted.same(candidate.platform):
            return candidate
    raise InternalError(f"no suitable export target found for platform {platform}")
