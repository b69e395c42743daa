"""The runtime's failures: the texts that clients match on, and that nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroups
from tests.root.runtime_lab import CGROUP_PARENT, Box, Driver, Failed

INIT = "error during container init: "


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nope", 'exec: "nope": executable file not found in $PATH'),
        ("", 'exec: "": executable file not found in $PATH'),
        ("/nope", 'exec: "/nope": stat /nope: no such file or directory'),
        ("./nope", 'exec: "./nope": stat ./nope: no such file or directory'),
        ("/bin", 'exec: "/bin": is a directory: permission denied'),
        ("/plain", 'exec: "/plain": permission denied'),
    ],
)
def test_program_texts(box: Box, program: str, text: str) -> None:
    (box.rootfs / "plain").write_text("")
    with pytest.raises(Failed) as caught:
        box.create(program)
    assert caught.value.message == INIT + text
    assert caught.value.step == "exec"
    box.start("sleep", "100")
    with pytest.raises(Failed) as caught:
        box.exec(program)
    assert caught.value.message == text


def test_exec_format_error_comes_from_start(box: Box) -> None:
    (box.rootfs / "junk").write_bytes(b"\x7fELFjunk")
    (box.rootfs / "junk").chmod(0o755)
    box.create("/junk")
    with pytest.raises(Failed, match="exec /junk: exec format error"):
        box.ask("start")


@pytest.mark.parametrize(
    ("user", "text"),
    [
        (
            {"username": "nobody-here"},
            "unable to find user nobody-here: no matching entries in passwd file",
        ),
        (
            {"username": "1:no-group"},
            "unable to find group no-group: no matching entries in group file",
        ),
        ({"username": "2147483648"}, "uids and gids must be in range 0-2147483647"),
        (
            {"username": "root", "additionalGroups": ["x"]},
            "unable to find group x: no matching entries in group file",
        ),
    ],
)
def test_user_texts(box: Box, user: dict[str, Any], text: str) -> None:
    (box.rootfs / "etc").mkdir(exist_ok=True)
    (box.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    box.process["user"] = user
    with pytest.raises(Failed) as caught:
        box.create()
    assert (caught.value.step, caught.value.message) == ("user", text)


def test_mount_texts(box: Box) -> None:
    missing = box.directory / "missing"
    box.mount("/etc", missing, "bind")
    with pytest.raises(Failed, match="no such file or directory") as caught:
        box.create()
    assert caught.value.message.startswith(f'{INIT}error mounting "{missing}" to rootfs at "/etc"')
    (box.rootfs / "etc").mkdir(exist_ok=True)
    box.config["mounts"][-1]["source"] = "/etc/passwd"
    with pytest.raises(Failed) as caught:
        box.create()
    assert caught.value.message == (
        INIT + 'error mounting "/etc/passwd" to rootfs at "/etc": not a directory: Are you trying'
        " to mount a directory onto a file (or vice-versa)? Check if the specified host path exists"
        " and is the expected type"
    )


def test_mount_option_text(box: Box) -> None:
    box.mount("/x", "tmpfs", "size=foo", type_="tmpfs")
    with pytest.raises(Failed) as caught:
        box.create()
    assert caught.value.message.startswith(
        INIT + 'error mounting "tmpfs" to rootfs at "/x": invalid argument'
    )


def test_cwd_text_of_exec(box: Box) -> None:
    box.start("sleep", "100")
    with pytest.raises(Failed) as caught:
        box.exec("true", cwd="/nope")
    text = 'chdir to cwd ("/nope") set in config.json failed: no such file or directory'
    assert caught.value.message == text


def break_user_maps(box: Box) -> None:
    box.linux["namespaces"].append({"type": "user"})
    mapping = {"containerID": 0, "hostID": 100000, "size": 10}
    box.linux["uidMappings"] = box.linux["gidMappings"] = [mapping, mapping]


def break_limits(box: Box) -> None:
    box.linux["resources"] = {"memory": {"limit": 1}, "cpu": {"cpus": "9999"}}


def break_hook(box: Box) -> None:
    box.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}


BREAKS: dict[str, Any] = {
    "config": lambda box: box.config.update(ociVersion="9.0.0"),
    "rootfs": lambda box: box.config["root"].update(path="missing"),
    "maps": break_user_maps,
    "limits": break_limits,
    "mount": lambda box: box.mount("/x", "nothing", type_="nosuchfs"),
    "hook": break_hook,
    "sysctl": lambda box: box.linux.update(sysctl={"net.ipv4.nope": "1"}),
    "rlimit": lambda box: box.process.update(rlimits=[{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
    "program": lambda box: box.process.update(args=["nope"]),
    "apparmor": lambda box: box.process.update(apparmorProfile="missing-profile"),
    "uid": lambda box: box.process.update(user={"uid": 4294967295, "gid": 0}),
}


@pytest.mark.parametrize("what", BREAKS)
def test_failed_create_leaves_nothing(box: Box, driver: Driver, what: str) -> None:
    before = driver.ask("descriptors")
    mounts = Path("/proc/self/mountinfo").read_text()
    BREAKS[what](box)
    with pytest.raises(Failed):
        box.create()
    assert driver.ask("descriptors") == before
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not os.path.exists(box.state_root / box.id)
    assert not cgroups.manager(f"{CGROUP_PARENT}/{box.id}").exists()


def test_running_and_deleting_leaves_no_descriptors(box: Box, driver: Driver) -> None:
    before = driver.ask("descriptors")
    box.start("sleep", "100")
    box.exec("true")
    box.ask("delete")
    assert driver.ask("descriptors") == before


@pytest.mark.parametrize("bad", ["../x", "", "a/b", ".", "..", "x" * 1025, "ä", "a\n"])
def test_container_ids(box: Box, bad: str) -> None:
    box.write("true")
    with pytest.raises(Failed, match="invalid container ID format"):
        box.driver.ask(
            "create",
            id=bad,
            bundle=str(box.bundle),
            state_root=str(box.state_root),
            output=str(box.output),
        )


def test_id_in_use(box: Box) -> None:
    box.create("sleep", "100")
    with pytest.raises(Failed, match="container with given ID already exists"):
        box.create("sleep", "100")
    assert box.ask("status")["status"] == "created"
