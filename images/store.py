"""Library: which images, tags and layers there are; lifecycle's tables of images, its only writer.

    images            one row per image; its id is the digest of its configuration
    image_layers      the image's layers by chain id, position 0 at the bottom
    layers            one row per unpacked layer
    layer_blobs       the forms in which a layer was transferred, for pushing and saving it again
    tags              repository (canonical) and tag -> image
    digests           repository and manifest (or index) digest -> image; Docker's RepoDigests
    content_roots     manifests kept in the content store for an image
    container_snapshots  the top layer of each container's file system, which keeps that layer alive

Configurations stay in the content store under the image's id; parsed ones are cached here. An
image's rows are written in one transaction after everything that they name is on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from common.database import Database
from common.errors import InvalidArgument, NotFound
from images import config, reference
from images.content import ContentStore
from images.model import Image, ImageRecord, LayerRecord
from images.reference import Reference

MIGRATIONS = (
    """
    CREATE TABLE images (id TEXT PRIMARY KEY, parent TEXT NOT NULL, added_at INTEGER NOT NULL);
    CREATE TABLE layers (
        chain_id TEXT PRIMARY KEY, diff_id TEXT NOT NULL, parent TEXT, size INTEGER NOT NULL);
    CREATE TABLE image_layers (
        image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        position INTEGER NOT NULL,
        chain_id TEXT NOT NULL REFERENCES layers,
        PRIMARY KEY (image_id, position));
    CREATE INDEX image_layers_chain ON image_layers (chain_id);
    CREATE TABLE layer_blobs (
        diff_id TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
        size INTEGER NOT NULL, PRIMARY KEY (diff_id, digest));
    CREATE TABLE tags (
        repository TEXT NOT NULL, tag TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        tagged_at INTEGER NOT NULL, PRIMARY KEY (repository, tag));
    CREATE INDEX tags_image ON tags (image_id);
    CREATE TABLE digests (
        repository TEXT NOT NULL, digest TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        PRIMARY KEY (repository, digest));
    CREATE INDEX digests_image ON digests (image_id);
    CREATE TABLE content_roots (
        image_id TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
        digest TEXT NOT NULL, PRIMARY KEY (image_id, digest));
    CREATE TABLE container_snapshots (container_id TEXT PRIMARY KEY, chain_id TEXT);
    """,
)


class ImageStore:
    def __init__(self, database: Database, content: ContentStore) -> None:
        database.migrate("images", MIGRATIONS)
        self._database = database
        self._db = database.connection
        self._content = content
        self._cache: dict[str, Image] = {}

    # ---- finding

    def ids(self) -> list[str]:
        return [row[0] for row in self._db.execute("SELECT id FROM images ORDER BY added_at")]

    def get(self, image_id: str) -> Image:
        cached = self._cache.get(image_id)
        if cached is None:
            cached = self._cache[image_id] = self._read(image_id)
        return cached

    def resolve(self, text: str, *, exact: bool = False) -> Image:
        """By tag, digest, id or the start of an id, in Docker's order and with its errors.

        ``exact``: the error names what the client wrote, without a default tag.
        """
        bare = text.removeprefix("sha256:")
        if reference.is_image_id(text):
            image_id = f"sha256:{bare}"
            if not self._exists(image_id):
                raise NotFound(f"No such image: {image_id}")
            return self.get(image_id)
        try:
            wanted = reference.parse(text).with_default_tag()
        except InvalidArgument:
            found = self._by_prefix(bare)
            if found is None:
                raise
            return self.get(found)
        found = self.lookup(wanted) or self._by_prefix(bare)
        if found is None:
            raise NotFound(f"No such image: {text if exact else wanted.familiar}")
        return self.get(found)

    def lookup(self, wanted: Reference) -> str | None:
        """The id of the image that a reference names."""
        if wanted.digest is not None:
            row = self._db.execute(
                "SELECT image_id FROM digests WHERE repository = ? AND digest = ?",
                (wanted.repository, wanted.digest),
            ).fetchone()
        else:
            row = self._db.execute(
                "SELECT image_id FROM tags WHERE repository = ? AND tag = ?",
                (wanted.repository, wanted.tag),
            ).fetchone()
        return row[0] if row else None

    def references(self, image_id: str) -> list[Reference]:
        """All that name the image: tags first, each group in order."""
        tags = self._db.execute(
            "SELECT repository, tag FROM tags WHERE image_id = ? ORDER BY 1, 2", (image_id,)
        )
        found = [_reference(name, tag=tag) for name, tag in tags]
        digests = self._db.execute(
            "SELECT repository, digest FROM digests WHERE image_id = ? ORDER BY 1, 2", (image_id,)
        )
        return found + [_reference(name, digest=digest) for name, digest in digests]

    def repository_tags(self, repository: str) -> list[tuple[str, str]]:
        rows = self._db.execute(
            "SELECT tag, image_id FROM tags WHERE repository = ? ORDER BY tag", (repository,)
        )
        return [(tag, image_id) for tag, image_id in rows]

    def children(self, image_id: str) -> list[str]:
        return [
            row[0]
            for row in self._db.execute("SELECT id FROM images WHERE parent = ?", (image_id,))
        ]

    def manifests(self, image_id: str) -> list[str]:
        rows = self._db.execute(
            "SELECT digest FROM content_roots WHERE image_id = ? ORDER BY rowid DESC", (image_id,)
        )
        return [row[0] for row in rows]

    def siblings(self, image_id: str) -> list[str]:
        """Images that came with the same index: the same for other platforms."""
        rows = self._db.execute(
            "SELECT DISTINCT other.image_id FROM content_roots AS own JOIN content_roots AS other"
            " USING (digest) WHERE own.image_id = ? AND other.image_id != ? ORDER BY other.rowid",
            (image_id, image_id),
        )
        return [row[0] for row in rows]

    def layer_blobs(self, diff_id: str) -> list[tuple[str, str, int]]:
        """(digest, media type, size) of each form that the layer is kept in."""
        rows = self._db.execute(
            "SELECT digest, media_type, size FROM layer_blobs WHERE diff_id = ? ORDER BY size",
            (diff_id,),
        )
        return [(digest, media_type, size) for digest, media_type, size in rows]

    def repositories_with(self, blob: str) -> list[str]:
        """Those that a registry is known to have the layer in."""
        rows = self._db.execute(
            "SELECT DISTINCT digests.repository FROM layer_blobs JOIN layers USING (diff_id)"
            " JOIN image_layers USING (chain_id) JOIN digests USING (image_id)"
            " WHERE layer_blobs.digest = ? ORDER BY 1",
            (blob,),
        )
        return [row[0] for row in rows]

    def layer_sizes(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT chain_id, size FROM layers").fetchall())

    def contents(self, image: Image) -> dict[str, Any]:
        """What the worker needs to know of an image that leaves the engine."""
        return {
            "id": image.id,
            "manifests": self.manifests(image.id),
            "layers": {diff_id: self.layer_blobs(diff_id) for diff_id in image.diff_ids},
        }

    def layers(self, image_id: str) -> tuple[LayerRecord, ...]:
        """As the base of another image; which blobs they came in is known already."""
        rows = self._db.execute(
            "SELECT chain_id, diff_id, parent, size FROM image_layers JOIN layers USING (chain_id)"
            " WHERE image_id = ? ORDER BY position",
            (image_id,),
        )
        return tuple(
            LayerRecord(chain_id, diff_id, parent, size, blob="", blob_size=0, media_type="")
            for chain_id, diff_id, parent, size in rows
        )

    def is_layer_of_image(self, chain_id: str) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM image_layers WHERE chain_id = ? LIMIT 1", (chain_id,)
        ).fetchone()
        return row is not None

    # ---- changing

    def add(self, record: ImageRecord, parent: str = "") -> None:
        """Everything that ``record`` names is on disk; from this transaction on it exists."""
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO images VALUES (?, ?, ?)",
                (record.id, parent, time.time_ns()),
            )
            for position, layer in enumerate(record.layers):
                db.execute(
                    "INSERT OR IGNORE INTO layers VALUES (?, ?, ?, ?)",
                    (layer.chain_id, layer.diff_id, layer.parent, layer.size),
                )
                db.execute(
                    "INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)",
                    (record.id, position, layer.chain_id),
                )
                if layer.blob:
                    self.add_layer_blob(
                        layer.diff_id, layer.blob, layer.media_type, layer.blob_size
                    )
            for digest in (record.manifest, record.index):
                if digest:
                    db.execute(
                        "INSERT OR IGNORE INTO content_roots VALUES (?, ?)", (record.id, digest)
                    )
        self._cache.pop(record.id, None)

    def add_layer_blob(self, diff_id: str, digest: str, media_type: str, size: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO layer_blobs VALUES (?, ?, ?, ?)",
            (diff_id, digest, media_type, size),
        )

    def set_tag(self, wanted: Reference, image_id: str) -> str | None:
        """Point a tag at an image; the id of the image that lost it, if one did."""
        previous = self.lookup(wanted)
        self._db.execute(
            "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)",
            (wanted.repository, wanted.tag, image_id, time.time_ns()),
        )
        self._forget(image_id, previous)
        return previous if previous != image_id else None

    def add_digest(self, repository: str, digest: str, image_id: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (repository, digest, image_id)
        )
        self._forget(image_id)

    def remove_reference(self, wanted: Reference) -> None:
        image_id = self.lookup(wanted)
        if wanted.digest is not None:
            self._db.execute(
                "DELETE FROM digests WHERE repository = ? AND digest = ?",
                (wanted.repository, wanted.digest),
            )
        else:
            self._db.execute(
                "DELETE FROM tags WHERE repository = ? AND tag = ?", (wanted.repository, wanted.tag)
            )
        self._forget(image_id)

    def remove(self, image_id: str) -> None:
        self._db.execute("DELETE FROM images WHERE id = ?", (image_id,))
        self._cache.pop(image_id, None)

    def add_container(self, container_id: str, chain_id: str | None) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO container_snapshots VALUES (?, ?)", (container_id, chain_id)
        )

    def remove_container(self, container_id: str) -> None:
        self._db.execute("DELETE FROM container_snapshots WHERE container_id = ?", (container_id,))

    def containers(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT container_id FROM container_snapshots")}

    def container_chain(self, container_id: str) -> list[str] | None:
        """The container's layers, bottom first; None if there is no such container."""
        row = self._db.execute(
            "SELECT chain_id FROM container_snapshots WHERE container_id = ?", (container_id,)
        ).fetchone()
        return None if row is None else list(reversed(self._ancestry([row[0]] if row[0] else [])))

    # ---- collecting

    def remove_unused_layers(self, leased: Callable[[str], bool]) -> list[str]:
        """Forget the layers that nothing needs; their chain ids, a child before its parent."""
        with self._database.transaction() as db:
            tops = [row[0] for row in db.execute("SELECT DISTINCT chain_id FROM image_layers")]
            tops += [
                row[0]
                for row in db.execute(
                    "SELECT chain_id FROM container_snapshots WHERE chain_id IS NOT NULL"
                )
            ]
            needed = set(self._ancestry(tops))
            parents = dict(db.execute("SELECT chain_id, parent FROM layers").fetchall())
            unused = [c for c in parents if c not in needed and not leased(c)]
            unused.sort(key=lambda chain: _depth(chain, parents), reverse=True)
            db.executemany("DELETE FROM layers WHERE chain_id = ?", [(c,) for c in unused])
            db.execute("DELETE FROM layer_blobs WHERE diff_id NOT IN (SELECT diff_id FROM layers)")
        return unused

    def known_blobs(self) -> set[str]:
        rows = self._db.execute(
            "SELECT id FROM images UNION SELECT digest FROM content_roots"
            " UNION SELECT digest FROM layer_blobs"
        )
        return {row[0] for row in rows}

    def missing_blobs(self) -> set[str]:
        """Of the known ones, those that something else has removed: a pull brings them back."""
        return self.known_blobs().difference(self._content.digests())

    def known_layers(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT chain_id FROM layers")}

    # ---- inside

    def _ancestry(self, chain_ids: Iterable[str]) -> list[str]:
        """The given layers and all below them, each once, from the top down."""
        parents = dict(self._db.execute("SELECT chain_id, parent FROM layers").fetchall())
        found: dict[str, None] = {}
        for chain_id in chain_ids:
            current: str | None = chain_id
            while current is not None and current not in found:
                found[current] = None
                current = parents.get(current)
        return list(found)

    def _exists(self, image_id: str) -> bool:
        row = self._db.execute("SELECT 1 FROM images WHERE id = ?", (image_id,)).fetchone()
        return row is not None

    def _by_prefix(self, prefix: str) -> str | None:
        """None also where more than one image begins like that, as Docker has it."""
        if not prefix or not all(character in "0123456789abcdef" for character in prefix):
            return None
        rows = self._db.execute(
            "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2",
            (f"sha256:{prefix}", f"sha256:{prefix}g"),
        ).fetchall()
        return rows[0][0] if len(rows) == 1 else None

    def _forget(self, *image_ids: str | None) -> None:
        for image_id in image_ids:
            if image_id is not None:
                self._cache.pop(image_id, None)

    def _read(self, image_id: str) -> Image:
        row = self._db.execute("SELECT parent FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise NotFound(f"No such image: {image_id}")
        parsed = config.parse(self._content.read(image_id))
        names = self.references(image_id)
        (size,) = self._db.execute(
            "SELECT coalesce(sum(size), 0) FROM image_layers JOIN layers USING (chain_id)"
            " WHERE image_id = ?",
            (image_id,),
        ).fetchone()
        (tagged,) = self._db.execute(
            "SELECT coalesce(max(tagged_at), 0) FROM tags WHERE image_id = ?", (image_id,)
        ).fetchone()
        return Image(
            id=image_id,
            repo_tags=tuple(name.familiar for name in names if name.digest is None),
            repo_digests=tuple(name.familiar for name in names if name.digest is not None),
            platform=parsed.platform,
            config=parsed.config,
            history=parsed.history,
            diff_ids=parsed.diff_ids,
            chain_ids=config.chain_ids(parsed.diff_ids),
            size=size,
            created=parsed.created,
            author=parsed.author,
            comment=parsed.comment,
            docker_version=parsed.docker_version,
            parent=row[0],
            last_tagged=tagged,
        )


def _reference(repository: str, *, tag: str | None = None, digest: str | None = None) -> Reference:
    name = reference.parse_repository(repository)
    return Reference(name.domain, name.path, tag, digest)


def _depth(chain_id: str, parents: dict[str, str | None]) -> int:
    depth = 0
    current: str | None = chain_id
    while current is not None:
        depth += 1
        current = parents.get(current)
    return depth
