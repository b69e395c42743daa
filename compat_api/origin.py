"""longshored: which requests on a TCP listener without TLS may not be answered.

A page in a browser can make requests to 127.0.0.1, and by DNS rebinding read the answers. Clients
of Docker send no Origin, and a Host that is an address or a name that the listener was given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


class OriginCheck:
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names | {"localhost"}

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request with ``headers`` is refused, or None."""
        if "Origin" in headers:
            return "requests from web pages are not allowed: the request has an Origin header"
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "requests from web pages are not allowed: the request comes from another site"
        host = host_name(headers.get("Host", ""))
        if host and host not in self._names and not is_address(host):
            return f"host {host!r} is not a name of this listener"
        return None


def host_name(host: str) -> str:
    """``Host`` without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
