"""What a health check runs, and its times as Docker prints them."""

from __future__ import annotations

import pytest

from lifecycle._pb import containers_pb2 as pb
from lifecycle.health import Check, duration


def config(test: list[str], shell: list[str] | None = None) -> pb.Config:
    result = pb.Config()
    result.healthcheck.test.values[:] = test
    if shell:
        result.shell.values[:] = shell
    return result


@pytest.mark.parametrize(
    ("test", "shell", "command"),
    [
        (["CMD", "a", "b c"], None, ("a", "b c")),
        (["CMD-SHELL", "a && b"], None, ("/bin/sh", "-c", "a && b")),
        (["CMD-SHELL", "a"], ["/bin/bash", "-ec"], ("/bin/bash", "-ec", "a")),
    ],
)
def test_command(test: list[str], shell: list[str] | None, command: tuple[str, ...]) -> None:
    check = Check.of(config(test, shell))
    assert check is not None
    assert check.command == command


@pytest.mark.parametrize("test", [[], ["NONE"], ["CMD"], ["other", "x"]])
def test_none(test: list[str]) -> None:
    assert Check.of(config(test)) is None


def test_defaults() -> None:
    check = Check.of(config(["CMD", "true"]))
    assert check == Check(("true",), 30.0, 30.0, 0.0, 5.0, 3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "200ms"), (1.5, "1.5s"), (30.0, "30s"), (90.0, "1m30s"), (3600.0, "1h0m0s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
