"""Another runtime's command in place of the native one: our own, which has runc's command line."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.protocol import ShimError
from tests.archives import CHECKOUT
from tests.root.shim_lab import Lab, receive_all


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("shim-external"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("command") / "runtime"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m runtime "$@"\n',
    )
    path.chmod(0o755)
    return [str(path)]


def test_whole_life(lab: Lab, command: list[str], tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = [f"lowerdir={lab.rootfs}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
    overlay = {"destination": "/", "type": "overlay", "source": "overlay", "options": options}
    shim = lab.shim()
    shim.subscribe()
    client = shim.attach(stdin=True)
    shim.start(
        "sh",
        "-c",
        "cat; touch /made; exit 3",
        runtime=command,
        rootfs_mounts=[overlay],
        stdin_open=True,
        stdin_once=True,
    )
    assert receive_all(shim.exec("sh", "-c", "hostname; exit 4")) == b"box\n"
    assert shim.event("exec_exit")["exit_code"] == 4
    assert receive_all(shim.exec("tty", tty=True, exec_id="tty")) == b"/dev/pts/0\r\n"
    assert shim.call("stats")["cgroup"]["memory"]["usage"] > 0
    client.sendall(b"text\n")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"text\n"
    assert shim.exit_code() == 3
    assert "error" not in shim.event("cleaned")
    shim.gone()
    assert [each.name for each in (tmp_path / "upper").iterdir()] == ["made"]
    assert sorted(each.name for each in shim.bundle.iterdir()) == ["config.json", "json.log"]
    assert not (lab.exec_root / "runtime" / shim.id).exists()
    # The mount was in the shim's own namespace.
    assert str(shim.bundle) not in Path("/proc/self/mountinfo").read_text()


def test_terminal(lab: Lab, command: list[str]) -> None:
    shim = lab.shim()
    client = shim.attach()
    shim.start("tty", runtime=command, tty=True)
    assert receive_all(client) == b"/dev/pts/0\r\n"


def test_program_that_is_not_there(lab: Lab, command: list[str]) -> None:
    shim = lab.shim()
    with pytest.raises(ShimError, match="executable file not found in ") as caught:
        shim.start("nope", runtime=command)
    assert (caught.value.code, caught.value.step) == ("invalid_argument", "exec")
    shim.gone()


def test_command_that_is_not_there(lab: Lab) -> None:
    shim = lab.shim()
    with pytest.raises(ShimError, match="no such file"):
        shim.start("true", runtime=["/nonexistent/runtime"])
    shim.gone()
