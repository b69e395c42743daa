"""Worker: which images an archive has, by its manifest.json or its index.json.

Where it has both, as ``docker save`` writes since version 25, manifest.json decides, as in Docker;
the OCI manifest and index are kept with the image if they are of the same content, so that their
digests survive. Platforms that manifest.json has no room for are found in the index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from common.errors import EngineError, InvalidArgument
from images import config, manifest
from images.archive import Archive, LoadedImage
from images.manifest import Descriptor, Index, Manifest
from images.model import Platform


def find_images(archive: Archive, platform: str | None) -> list[LoadedImage]:
    wanted = Platform.parse(platform) if platform else None
    if not archive.has("manifest.json") and not archive.has("index.json"):
        raise InvalidArgument("invalid archive: it has neither manifest.json nor index.json")
    found: list[LoadedImage] = []
    if archive.has("manifest.json"):
        found = _of_platform(_docker_images(archive), wanted)
    if archive.has("index.json"):
        if found:
            found = _with_manifests(archive, found)
        elif wanted is not None or not archive.has("manifest.json"):
            found = _of_platform(_oci_images(archive, wanted), wanted)
    if wanted is not None and not found:
        raise InvalidArgument(f"requested platform(s) ([{platform}]) not found in the archive")
    return found


def _of_platform(images: list[LoadedImage], wanted: Platform | None) -> list[LoadedImage]:
    if wanted is None:
        return images
    return [image for image in images if wanted.same(config.parse(image.config).platform)]


def _docker_images(archive: Archive) -> list[LoadedImage]:
    text = archive.read("manifest.json")
    wrapped = config.load_object(b'{"images":' + text + b"}", "manifest.json")
    images = []
    for item in config.member(wrapped, "images", list, []):
        if not isinstance(item, dict):
            raise InvalidArgument("invalid manifest.json: an image is not an object")
        images.append(
            LoadedImage(
                config=archive.read(config.member(item, "Config", str, "")),
                layers=config.strings(item, "Layers"),
                media_types=(),
                references=config.strings(item, "RepoTags"),
            )
        )
    return images


def _index(archive: Archive) -> Index:
    index = manifest.parse(archive.read("index.json"), manifest.OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidArgument("invalid index.json: not an index")
    return index


def _oci_images(archive: Archive, wanted: Platform | None) -> list[LoadedImage]:
    images = []
    for entry in _index(archive).manifests:
        annotations = entry.annotations or {}
        name = annotations.get("io.containerd.image.name") or annotations.get(
            "org.opencontainers.image.ref.name", ""
        )
        data, index = _blob(archive, entry), b""
        document = manifest.parse(data, entry.media_type)
        if isinstance(document, Index):
            chosen = _choose(archive, document, wanted)
            if chosen is None:
                continue
            data, index = _blob(archive, chosen), data
            document = manifest.parse(data, chosen.media_type)
        if not isinstance(document, Manifest):
            raise InvalidArgument("invalid archive: an index of indexes")
        image = _oci_image(archive, document, data, index)
        images.append(replace(image, references=(name,) if "/" in name or ":" in name else ()))
    return images


def _choose(archive: Archive, index: Index, wanted: Platform | None) -> Descriptor | None:
    """Of an index's manifests, which need not all be in the archive."""
    present = _present(archive, index)
    chosen = manifest.choose(present, wanted or Platform.of_host())
    if chosen is None and wanted is None:
        # Somebody saved another machine's image. Attestations are of an unknown platform.
        real = (e for e in present.manifests if e.platform and e.platform.os != "unknown")
        return next(real, None)
    return chosen


def _present(archive: Archive, index: Index) -> Index:
    here = (entry for entry in index.manifests if archive.has(archive.blob(entry.digest)))
    return replace(index, manifests=tuple(here))


def _with_manifests(archive: Archive, images: list[LoadedImage]) -> list[LoadedImage]:
    """The images with their OCI manifests, where the archive has any that say the same."""
    described = {(found.config, found.layers): found for found in _described(archive)}
    found = []
    for image in images:
        blobs = tuple(archive.blob(archive.find(name).digest) for name in image.layers)
        same = described.get((image.config, blobs))
        found.append(replace(same, references=image.references) if same else image)
    return found


def _described(archive: Archive) -> Iterator[LoadedImage]:
    """All that index.json leads to. What is wrong with it is no error: Docker does not read it."""
    seen: set[str] = set()

    def walk(entries: tuple[Descriptor, ...], index: bytes) -> Iterator[LoadedImage]:
        for entry in entries:
            if entry.digest in seen:
                continue
            seen.add(entry.digest)
            try:
                data = _blob(archive, entry)
                document = manifest.parse(data, entry.media_type)
                if isinstance(document, Manifest):
                    yield _oci_image(archive, document, data, index)
                elif not index:
                    yield from walk(_present(archive, document).manifests, data)
            except EngineError:
                continue

    try:
        entries = _index(archive).manifests
    except EngineError:
        return
    yield from walk(entries, b"")


def _oci_image(archive: Archive, document: Manifest, data: bytes, index: bytes) -> LoadedImage:
    for layer in document.layers:
        _check_blob(archive, layer)
    return LoadedImage(
        config=_blob(archive, document.config),
        layers=tuple(archive.blob(layer.digest) for layer in document.layers),
        media_types=tuple(layer.media_type for layer in document.layers),
        references=(),
        manifest=data,
        index=index,
    )


def _blob(archive: Archive, wanted: Descriptor) -> bytes:
    _check_blob(archive, wanted)
    return archive.read(archive.blob(wanted.digest))


def _check_blob(archive: Archive, wanted: Descriptor) -> None:
    """Whether the archive has under the digest's name what the digest and the size say."""
    found = archive.find(archive.blob(wanted.digest))
    if found.digest != wanted.digest:
        raise InvalidArgument(f"invalid archive: the content of {wanted.digest} is not that")
    if found.size != wanted.size:
        raise InvalidArgument(
            f"invalid archive: {wanted.digest} has {found.size} bytes, not {wanted.size}"
        )
