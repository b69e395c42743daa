"""Files of names: none of them leads out of its directory."""

from __future__ import annotations

import os
import time
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


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes within a tick of the kernel's clock looks alike, and must not be relied on."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    os.utime(tmp_path, ns=(now, now))
    assert not namefiles.are_settled([namefiles.version(str(tmp_path))])
    before = now - 2 * namefiles.SETTLED_NS
    os.utime(tmp_path, ns=(before, before))
    old = namefiles.version(str(tmp_path))
    assert namefiles.are_settled([old])
    assert not namefiles.are_settled([old, namefiles.version(f"{tmp_path}/nothing")])
    namefiles.write(tmp_path, "web", ["10.0.0.1"])
    assert namefiles.version(str(tmp_path)) != old
