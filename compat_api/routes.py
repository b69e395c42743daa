"""longshored: from a request's path to the handler; the tables are in the resources' modules.

A resource's module has ``ROUTES``, a tuple of ``Route``. A template is a fixed path, or has one
variable, ``{name}``, which like Docker's matches any text, with slashes and empty. Fixed paths
win over templates, templates are tried in the order of the tables. resources.py joins the tables.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from compat_api.release import OLDEST
from compat_api.request import Request
from compat_api.versions import Version


@dataclass(frozen=True, slots=True)
class Json:
    """A handler's answer with a JSON body, in the newest version's form."""

    body: Any
    status: int = 200


@dataclass(frozen=True, slots=True)
class Encoded:
    """A handler's answer with a JSON body, in the client's form already (Request.encode)."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Empty:
    """A handler's answer without a body."""

    status: int = 204


Answer = Json | Encoded | Empty | web.StreamResponse
Handler = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str  # "/containers/{name}/json"
    handler: Handler
    since: Version = OLDEST  # clients of older versions do not find it

    @property
    def endpoint(self) -> str:
        return f"{self.method} {self.template}"


@dataclass(frozen=True, slots=True)
class _Pattern:
    prefix: str
    suffix: str
    route: Route

    def match(self, path: str) -> str | None:
        end = len(path) - len(self.suffix)
        if len(self.prefix) <= end and path.startswith(self.prefix) and path.endswith(self.suffix):
            return path[len(self.prefix) : end]
        return None


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Route] = {}
        # By method and the first part of the path, so that few templates are tried.
        self._patterns: dict[tuple[str, str], list[_Pattern]] = {}
        for route in routes:
            prefix, brace, rest = route.template.partition("{")
            if not brace:
                self._fixed[route.method, route.template] = route
                continue
            suffix = rest.partition("}")[2]
            key = (route.method, _first_part(prefix))
            self._patterns.setdefault(key, []).append(_Pattern(prefix, suffix, route))

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        """The route of ``path``, without its version, and the value of its variable."""
        route = self._fixed.get((method, path))
        if route is not None:
            return route, ""
        for part in (_first_part(path), ""):
            for pattern in self._patterns.get((method, part), ()):
                name = pattern.match(path)
                if name is not None:
                    return pattern.route, name
        return None


def _first_part(path: str) -> str:
    return path[1:].partition("/")[0]
