"""longshored: what version 1.32 of the API changed; see the package."""

from __future__ import annotations

from compat_api.versions.edits import UnknownParameters


class PlatformToPull(UnknownParameters):
    """Pull and build take a platform."""

    endpoints = ("POST /images/create", "POST /build")
    parameters = ("platform",)


CHANGES = (PlatformToPull(),)
