"""What --userns-remap means, from the host's users and their subordinate ids."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from common.errors import InvalidArgument
from lifecycle import remap_setting
from runtime.idmaps import inverse
from runtime.spec import IDMapping


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "subuid").write_text(
        "# comment\nother:1:2\ndaemon:100000:65536\n1:300000:10\ndaemon:x:1\n"
    )
    (tmp_path / "subgid").write_text("daemon:200000:65536\n")
    return tmp_path


@pytest.mark.parametrize("setting", ["daemon", "1", "daemon:daemon", "1:1", "daemon:root"])
def test_ranges_of_a_user(etc: Path, setting: str) -> None:
    """By name and by number, one after the other; the group is not asked for ranges."""
    assert pwd.getpwnam("daemon").pw_uid == 1
    found = remap_setting.resolve(setting, etc)
    assert found is not None
    assert found.uids == (IDMapping(0, 100000, 65536), IDMapping(65536, 300000, 10))
    assert found.gids == (IDMapping(0, 200000, 65536),)
    assert found.root == (100000, 200000)
    assert found.mappings["gidMappings"] == [{"containerID": 0, "hostID": 200000, "size": 65536}]


def test_root_stays_root(etc: Path) -> None:
    assert remap_setting.resolve("root", etc) is None
    assert remap_setting.resolve("0", etc) is None


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("a:b:c", 'Invalid user/group specification in --userns-remap: "a:b:c"'),
        ("no-such-user", 'Error during uid lookup for "no-such-user"'),
        ("4000000", "Uid 4000000 has no entry in /etc/passwd"),
        ("daemon:no-such-group", 'Error during gid lookup for "no-such-group"'),
        ("daemon:4000000", "Gid 4000000 has no entry in /etc/group"),
        ("bin", 'error creating ID mappings: no subuid ranges found for user "bin"'),
    ],
)
def test_settings_that_mean_nobody(etc: Path, setting: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        remap_setting.resolve(setting, etc)
    assert str(caught.value).startswith(text)


def test_missing_file(etc: Path) -> None:
    (etc / "subgid").unlink()
    with pytest.raises(InvalidArgument, match="no subgid ranges"):
        remap_setting.resolve("daemon", etc)


@pytest.mark.parametrize(
    ("taken", "start"),
    [
        ([], 100000),
        ([(165536, 65536), (100000, 65536)], 231072),
        ([(200000, 10)], 100000),
        ([(99999, 2)], 100001),
        ([(1, 99999)], 100000),
    ],
)
def test_free_range(taken: list[tuple[int, int]], start: int) -> None:
    assert remap_setting.free_range(iter(taken)) == start


def test_inverse() -> None:
    """The ids change places, unless they overlap."""
    assert inverse([IDMapping(0, 100, 10), IDMapping(10, 200, 5)]) == (
        IDMapping(100, 0, 10),
        IDMapping(200, 10, 5),
        IDMapping(0, 100, 10),
        IDMapping(10, 200, 5),
    )
    assert inverse([IDMapping(0, 5, 10)]) == (IDMapping(5, 0, 10),)
