"""Files of names: none of them leads out of its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from common import namefiles


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"Web-1.site_2", "web-1.site_2"),
        (b"..", "%2e%2e"),
        (b".hidden", "%2ehidden"),
        (b"a/../b", "a%2f%2e%2e%2fb"),
        (b"odd name", "odd%20name"),
        (b"%tmp", "%25tmp"),
        (b"ptr:10.0.0.1", "ptr%3a10%2e0%2e0%2e1"),
        (b"\0", "%00"),
        (b"", None),
        (b"x" * 256, None),
    ],
)
def test_encoding(name: bytes, expected: str | None) -> None:
    assert namefiles.encode(name) == expected


def test_write_and_read(tmp_path: Path) -> None:
    namefiles.write(tmp_path, "web", ["10.0.0.1", "fd00::1"])
    assert namefiles.read(f"{tmp_path}/web") == ["10.0.0.1", "fd00::1"]
    namefiles.write(tmp_path, "web", [])
    namefiles.write(tmp_path, "web", [])
    assert namefiles.read(f"{tmp_path}/web") == []
    assert list(tmp_path.iterdir()) == []
