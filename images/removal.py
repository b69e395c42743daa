"""Library: what removing an image does, in Docker's order and with its conflicts.

A reference is removed before its image; an image that containers use, or that has more names than
the one given, stays or needs force (moby v28.5 daemon/images/image_delete.go). Decisions only: the
caller runs ``plan`` and its effects in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.errors import Conflict
from common.ids import short
from images import reference
from images.model import Image, Removal, Use
from images.reference import Reference
from images.store import ImageStore

InUse = Callable[[str], Sequence[Use]]


class Remover:
    def __init__(self, store: ImageStore, in_use: InUse, *, force: bool, prune: bool) -> None:
        self._store = store
        self._in_use = in_use
        self._force = force
        self._prune = prune
        self.records: list[Removal] = []
        self.removed: list[Image] = []

    def remove(self, image: Image, name: str) -> None:
        """Untag ``name``, or all if it is an id, and remove the image if that left it nameless."""
        references = self._store.references(image.id)
        if reference.is_id_of(image.id, name):
            if _is_single(references):
                self._check(image, references, references_matter=False)
                self._untag(references)
            self._remove_image(image)
            return
        if not self._force and _is_single(references):
            for use in self._in_use(image.id):
                raise Conflict(
                    f'conflict: unable to remove repository reference "{name}" (must force) -'
                    f" container {short(use.container_id)} is using its referenced image"
                    f" {short(image.id)}"
                )
        named = reference.parse(name).with_default_tag()
        self._untag([named])
        left = self._store.references(image.id)
        if named.digest is None and not any(
            other.digest is None and other.repository == named.repository for other in left
        ):
            self._untag([other for other in left if other.repository == named.repository])
            left = self._store.references(image.id)
        if not left:
            self._remove_image(image)

    def _remove_image(self, image: Image, *, quiet: bool = False) -> None:
        references = self._store.references(image.id)
        try:
            self._check(image, references, references_matter=True)
        except Conflict:
            if quiet and (references or self._in_use(image.id)):
                return
            raise
        self._untag(references)
        self._store.remove(image.id)
        self.removed.append(image)
        self.records.append(Removal(deleted=image.id))
        if self._prune and image.parent and image.parent in self._store.ids():
            parent = self._store.get(image.parent)
            if not self._store.references(parent.id):
                self._remove_image(parent, quiet=True)

    def _check(
        self, image: Image, references: Sequence[Reference], *, references_matter: bool
    ) -> None:
        uses = self._in_use(image.id)
        running = [use for use in uses if use.running]
        if self._store.children(image.id):
            raise _conflict(image, "cannot be forced", "image has dependent child images")
        if running:
            raise _conflict(
                image,
                "cannot be forced",
                f"image is being used by running container {short(running[0].container_id)}",
            )
        if self._force:
            return
        if references_matter and references:
            raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
        for use in uses:
            raise _conflict(
                image,
                "must be forced",
                f"image is being used by stopped container {short(use.container_id)}",
            )

    def _untag(self, references: Sequence[Reference]) -> None:
        for name in references:
            self._store.remove_reference(name)
            self.records.append(Removal(untagged=name.familiar))


def _conflict(image: Image, how: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {short(image.id)} ({how}) - {why}")


def _is_single(references: Sequence[Reference]) -> bool:
    """At most one tag, and all digests in that tag's repository."""
    if len(references) <= 1:
        return True
    tags = [name for name in references if name.digest is None]
    if len(tags) > 1:
        return False
    only = tags[0] if tags else references[0]
    return {name.repository for name in references if name.digest is not None} == {only.repository}
