"""docs/api-coverage.md names the endpoints that there are, no more and no fewer."""

from __future__ import annotations

import re
from pathlib import Path

from compat_api.resources import ROUTES
from compat_api.routes import Router

TABLE = Path(__file__).parents[2] / "docs/api-coverage.md"
ROW = re.compile(r"\| (?P<method>[A-Z]+) \| `(?P<path>/\S*)` \| (?P<status>[a-z ]+) \|.* \|")
# Not in the reference, which takes them for granted.
UNLISTED = {("OPTIONS", "/{}"), ("GET", "/networks/")}


def shape(path: str) -> str:
    return re.sub(r"\{.*?\}", "{}", path)


def rows() -> list[tuple[str, str, str]]:
    found = map(ROW.fullmatch, TABLE.read_text().split("\n"))
    return [(row["method"], row["path"], row["status"]) for row in found if row]


def test_table_and_routes_are_the_same() -> None:
    listed = [(method, shape(path)) for method, path, _ in rows()]
    assert len(listed) == len(set(listed)) == 109
    routes = {(route.method, shape(route.template)) for route in ROUTES}
    assert set(listed) == routes - UNLISTED


def test_every_status_is_one_of_two() -> None:
    assert {status for _, _, status in rows()} == {"supported", "clear error"}


def test_paths_lead_to_their_own_routes() -> None:
    router = Router(ROUTES)
    name = "host:5000/a/b:1"
    for method, path, _ in rows():
        found = router.find(method, re.sub(r"\{.*?\}", name, path))
        assert found is not None, (method, path)
        route, variable = found
        assert shape(route.template) == shape(path)
        assert variable == (name if "{" in path else "")


def test_each_endpoint_has_one_route() -> None:
    endpoints = [route.endpoint for route in ROUTES]
    assert len(endpoints) == len(set(endpoints))
