"""Library: image references, parsed and normalised the way Docker's clients expect.

``busybox`` is short for ``docker.io/library/busybox:latest``; the store keeps the long
("canonical") form, clients are shown the short ("familiar") one. The grammar and the texts of the
errors are those of distribution/reference v0.6, which clients match on. Pure functions, used by
lifecycle and by the worker.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from common.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN_NAME = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_DOMAIN_NAME}(?:\.{_DOMAIN_NAME})*|\[[a-fA-F0-9:]+\])"
DOMAIN = re.compile(rf"{_HOST}(?::[0-9]+)?")
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_HOST}(?::[0-9]+)?)/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_DIGEST_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A repository with, perhaps, a tag and a digest."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    def with_default_tag(self) -> Reference:
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """The normalised reference, or InvalidArgument in the words of Docker."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidArgument(
            f"invalid reference format: repository name ({remote}) must be lowercase"
        )
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None or match["domain"] is None:
        raise InvalidArgument("invalid reference format")
    if len(match["path"]) > NAME_LIMIT:
        raise InvalidArgument(f"repository name must not be more than {NAME_LIMIT} characters")
    if match["digest"] is not None:
        _check_digest(match["digest"])
    return Reference(match["domain"], match["path"], match["tag"], match["digest"])


def parse_repository(repository: str) -> Reference:
    """The reference of a name that the store wrote: always with its domain."""
    domain, _, path = repository.partition("/")
    return Reference(domain, path)


def is_image_id(text: str) -> bool:
    """Whether ``text`` is a whole image id, with or without ``sha256:``."""
    return _IDENTIFIER.fullmatch(text.removeprefix("sha256:")) is not None


def is_id_of(image_id: str, text: str) -> bool:
    """Whether ``text``, which was found to name the image, is its id or the start of it."""
    return image_id.startswith(text) or image_id.removeprefix("sha256:").startswith(text)


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        domain, remainder = DEFAULT_DOMAIN, text
    elif first == LEGACY_DEFAULT_DOMAIN:
        domain, remainder = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first.lower() != first:
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder


def _check_digest(digest: str) -> None:
    algorithm, _, value = digest.partition(":")
    length = _DIGEST_LENGTH.get(algorithm)
    if length is None:
        raise InvalidArgument("invalid reference format: unsupported digest algorithm")
    if len(value) != length:
        raise InvalidArgument("invalid reference format: invalid checksum digest length")
    if value.lower() != value:
        raise InvalidArgument("invalid reference format: invalid checksum digest format")
