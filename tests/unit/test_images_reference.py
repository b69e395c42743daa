"""References: Docker's grammar, its normal form, and the texts of its errors."""

from __future__ import annotations

import pytest

from common.errors import InvalidArgument
from images import reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("u/x", "docker.io/u/x", "u/x"),
        ("docker.io/u/x:t", "docker.io/u/x:t", "u/x:t"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("Host/x", "Host/x", "Host/x"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}", f"x@{DIGEST}"),
        (f"x:t@{DIGEST}", f"docker.io/library/x:t@{DIGEST}", f"x:t@{DIGEST}"),
        ("a__b.c-d--e", "docker.io/library/a__b.c-d--e", "a__b.c-d--e"),
    ],
)
def test_normal_form(text: str, full: str, familiar: str) -> None:
    parsed = reference.parse(text)
    assert str(parsed) == full
    assert parsed.familiar == familiar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("x:", "invalid reference format"),
        (":t", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("x\n", "invalid reference format"),
        ("x:" + "t" * 129, "invalid reference format"),
        ("../x", "invalid reference format"),
        ("X", "invalid reference format: repository name (library/X) must be lowercase"),
        ("u/X:t", "invalid reference format: repository name (u/X) must be lowercase"),
        ("a" * 64, f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal"),
        (f"x@sha256:{'a' * 63}", "invalid reference format: invalid checksum digest length"),
        ("x@md5:" + "a" * 32, "invalid reference format: unsupported digest algorithm"),
        ("a/" * 130 + "b", "repository name must not be more than 255 characters"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        reference.parse(text)
    assert str(raised.value).startswith(message)


def test_default_tag() -> None:
    assert reference.parse("x").with_default_tag().familiar == "x:latest"
    assert reference.parse(f"x@{DIGEST}").with_default_tag().tag is None
