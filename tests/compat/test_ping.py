"""GET and HEAD /_ping, version prefixes and what every answer carries."""

from __future__ import annotations

import pytest

from tests.engine import Engine


@pytest.mark.parametrize("target", ["/_ping", "/v1.24/_ping", "/v1.51/_ping"])
def test_get(engine: Engine, target: str) -> None:
    answer = engine.api("GET", target)
    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_head_has_the_headers_of_get(engine: Engine) -> None:
    answer = engine.api("HEAD", "/_ping")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "0"
    assert answer.headers["api-version"] == "1.51"
    assert answer.headers["docker-experimental"] == "false"
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["builder-version"] in ("1", "2")
    assert answer.headers["swarm"] == "inactive"
    assert answer.headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert answer.headers["pragma"] == "no-cache"


def test_every_answer_names_the_server(engine: Engine) -> None:
    headers = engine.api("GET", "/version").headers
    assert headers["api-version"] == "1.51"
    assert headers["docker-experimental"] == "false"
    assert headers["ostype"] == "linux"
    assert headers["server"].startswith("Docker/")
    assert headers["content-type"] == "application/json"


def test_too_new_version(engine: Engine) -> None:
    answer = engine.api("GET", "/v1.99/info")
    assert answer.status == 400
    assert answer.message == (
        "client version 1.99 is too new. Maximum supported API version is 1.51"
    )
    assert answer.headers["content-type"] == "application/json"


def test_too_old_version(engine: Engine) -> None:
    answer = engine.api("GET", "/v1.12/info")
    assert answer.status == 400
    assert (
        b"client version 1.12 is too old. Minimum supported API version is 1.24, "
        b"please upgrade your client to a newer version" in answer.body
    )


@pytest.mark.parametrize("target", ["/nope", "/v1.51/nope", "/containers"])
def test_unknown_route(engine: Engine, target: str) -> None:
    answer = engine.api("GET", target)
    assert (answer.status, answer.message) == (404, "page not found")


def test_wrong_method_is_no_405(engine: Engine) -> None:
    answer = engine.api("DELETE", "/containers/json")
    assert (answer.status, answer.message) == (404, "No such container: json")


def test_path_is_not_cleaned_silently(engine: Engine) -> None:
    assert engine.api("POST", "/containers//start").status == 301
