"""Worker: where a repository's registry is, and how far it may be trusted.

A registry is reached by https with verified certificates. One that is named as insecure (by
``--insecure-registry``, or because it is on the loopback, as Docker has it) is also tried without
verification and then by http. Certificates come from ``certs.d/<host>[:<port>]/``: ``*.crt`` are
authorities, ``*.cert`` with ``*.key`` the client's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import InternalError, InvalidArgument
from images.reference import DEFAULT_DOMAIN

if TYPE_CHECKING:
    import ssl

DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """What longshored's flags say about registries."""

    mirrors: tuple[str, ...] = ()  # URLs, for Docker Hub
    insecure: tuple[str, ...] = ()  # host[:port] or CIDR
    certificates: Path = Path("/etc/docker/certs.d")
    max_downloads: int = 3
    max_uploads: int = 5
    max_attempts: int = 5

    def to_json(self) -> dict[str, Any]:
        return {
            "mirrors": self.mirrors,
            "insecure": self.insecure,
            "certificates": str(self.certificates),
            "max_downloads": self.max_downloads,
            "max_uploads": self.max_uploads,
            "max_attempts": self.max_attempts,
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> RegistryOptions:
        return cls(
            mirrors=tuple(members["mirrors"]),
            insecure=tuple(members["insecure"]),
            certificates=Path(members["certificates"]),
            max_downloads=members["max_downloads"],
            max_uploads=members["max_uploads"],
            max_attempts=members["max_attempts"],
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    scheme: str
    host: str  # with the port, if one was given
    path: str = ""  # a mirror may live below one
    verify: bool = True
    mirror: bool = False

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"


def endpoints(domain: str, options: RegistryOptions, *, push: bool = False) -> list[Endpoint]:
    """In the order in which they are to be tried."""
    found = []
    if domain == DEFAULT_DOMAIN:
        if not push:
            found = [_mirror(url, options.insecure) for url in options.mirrors]
        domain = DOCKER_HUB
    if not is_insecure(domain, options.insecure):
        return [*found, Endpoint("https", domain)]
    return [*found, Endpoint("https", domain, verify=False), Endpoint("http", domain, verify=False)]


def _mirror(url: str, insecure: Sequence[str]) -> Endpoint:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise InvalidArgument(f"invalid mirror: {url!r}")
    # That a mirror is named with http:// is the administrator's word for it.
    verify = parts.scheme == "https" and not is_insecure(parts.netloc, insecure)
    return Endpoint(parts.scheme, parts.netloc, parts.path.rstrip("/"), verify=verify, mirror=True)


def is_insecure(host: str, insecure: Sequence[str]) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if name == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in insecure:
        if entry in (host, name):
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue  # not a CIDR: the flag's own check has refused it, or it is a name
    return False


def ssl_context(endpoint: Endpoint, certificates: Path) -> ssl.SSLContext:
    import ssl  # only the worker calls this; lifecycle does without OpenSSL

    context = ssl.create_default_context()
    directory = certificates / endpoint.host
    try:
        files = sorted(directory.iterdir()) if directory.is_dir() else []
        for file in files:
            if file.suffix == ".crt":
                context.load_verify_locations(file)
            elif file.suffix == ".cert":
                context.load_cert_chain(file, file.with_suffix(".key"))
    except (OSError, ssl.SSLError) as e:
        raise InternalError(f"cannot use the certificates in {directory}: {e}") from e
    if not endpoint.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
