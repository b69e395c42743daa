"""The runtime: who a process is, by number and by the image's own files."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.root.runtime_lab import Box, Failed

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1001:Bob:/home/bob:/bin/sh
# comment:x:7:7::/:
huge:x:4294967296:0::/:/bin/sh
"""
GROUP = """\
root:x:0:
wheel:x:10:root,bob
staff:x:50:bob
audio:x:63:
"""


@pytest.fixture
def people(box: Box) -> Box:
    (box.rootfs / "etc").mkdir(exist_ok=True)
    (box.rootfs / "etc/passwd").write_text(PASSWD)
    (box.rootfs / "etc/group").write_text(GROUP)
    return box


@pytest.mark.parametrize(
    ("user", "uid", "gids", "home"),
    [
        ({"username": ""}, "0", "0 10", "/root"),
        ({"username": "bob"}, "1000", "1001 10 50", "/home/bob"),
        ({"username": "1000"}, "1000", "1001 10 50", "/home/bob"),
        ({"username": "bob:audio"}, "1000", "63", "/home/bob"),
        ({"username": "bob:77"}, "1000", "77", "/home/bob"),
        ({"username": "4000"}, "4000", "0", "/"),
        (
            {"username": "bob", "additionalGroups": ["audio", "99"]},
            "1000",
            "1001 10 50 63 99",
            None,
        ),
        ({"uid": 1000, "gid": 5, "additionalGids": [6, 5, 7]}, "1000", "5 6 7", "/home/bob"),
    ],
)
def test_identity(people: Box, user: dict[str, Any], uid: str, gids: str, home: str | None) -> None:
    people.process["user"] = user
    lines = people.sh("id -u; id -G; echo $HOME").splitlines()
    assert lines[0] == uid
    assert lines[1] == gids
    assert home in (None, lines[2])


@pytest.mark.parametrize("name", ["huge", "+5", "1_000", "0x0", "-1", "٣", "4294967296"])
def test_what_is_no_user(people: Box, name: str) -> None:
    people.process["user"] = {"username": name}
    with pytest.raises(Failed) as caught:
        people.create()
    assert caught.value.step == "user"


def test_passwd_that_is_a_fifo_or_leads_out(box: Box) -> None:
    (box.rootfs / "etc").mkdir(exist_ok=True)
    for name in ("passwd", "group"):
        (box.rootfs / "etc" / name).unlink(missing_ok=True)
    os.mkfifo(box.rootfs / "etc/passwd")
    (box.rootfs / "etc/group").symlink_to("../" * 12 + "etc/group")
    box.process["user"] = {"username": "daemon"}
    with pytest.raises(Failed, match="unable to find user daemon"):
        box.create()


def test_home_of_the_environment_stays(people: Box) -> None:
    people.process["env"].append("HOME=/elsewhere")
    assert people.sh("echo $HOME") == "/elsewhere\n"


def test_working_directory_is_made_and_entered_as_root(people: Box) -> None:
    (people.rootfs / "closed").mkdir(mode=0o700)
    people.process["user"] = {"username": "bob"}
    people.process["cwd"] = "/closed/work"
    assert people.sh("pwd").strip() == "/closed/work"


def test_stdout_can_be_reopened_by_the_user(people: Box) -> None:
    people.process["user"] = {"username": "bob"}
    assert people.sh("echo reopened >/dev/stderr") == "reopened\n"


def test_environment_without_a_name_or_a_value(box: Box) -> None:
    box.process["env"] += ["NOVALUE", "=x", "TWICE=1", "TWICE=2", "EMPTY="]
    lines = box.sh("env").splitlines()
    assert "TWICE=2" in lines
    assert "EMPTY=" in lines
    assert not any(line.startswith(("NOVALUE", "=", "TWICE=1")) for line in lines)
