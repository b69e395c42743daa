"""The program of --init, run like any other: the kernel checks the ELF file, too."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from common.errors import NotSupported
from lifecycle.init_program import elf, install

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="no program for it yet")


@pytest.fixture
def init(tmp_path: Path) -> str:
    return str(install(tmp_path))


@pytest.mark.parametrize(
    ("command", "path", "code"),
    [
        (["true"], "/bin:/usr/bin", 0),
        (["sh", "-c", "exit 42"], "/bin:/usr/bin", 42),
        (["sh", "-c", "kill -9 $$"], "/bin:/usr/bin", 137),
        (["/bin/sh", "-c", "exit 3"], None, 3),
        (["sh", "-c", "exit 4"], "/nope:" + "x" * 9000 + ":/bin", 4),
        (["nope"], "/bin", 127),
        (["/nope"], "/bin", 127),
        (["passwd"], "/etc", 126),
        (["sh"], None, 127),
        (["y" * 9000], "/bin", 127),
        (["true"], ":/bin", 0),
    ],
)
def test_it_finds_the_program_and_ends_as_it_ends(
    init: str, command: list[str], path: str | None, code: int
) -> None:
    env = {} if path is None else {"A": "b", "PATH": path}
    done = subprocess.run([init, "--", *command], env=env, capture_output=True, timeout=30)
    assert done.returncode == code
    if code in (126, 127):
        assert done.stderr == b"docker-init: cannot exec: %s\n" % command[0].encode()


def test_it_forwards_signals(init: str) -> None:
    script = 'trap "exit 7" TERM; echo ready; while :; do sleep 0.02; done'
    with subprocess.Popen([init, "--", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7


def test_arguments_and_environment_arrive(init: str) -> None:
    command = [init, "--", "sh", "-c", 'echo "$0 $1 $2 $X"', "a b", "", "c"]
    env = {"PATH": "/bin:/usr/bin", "X": "y"}
    assert subprocess.check_output(command, env=env) == b"a b  c y\n"


def test_no_signal_stays_blocked(init: str) -> None:
    status = subprocess.check_output([init, "--", "grep", "SigBlk", "/proc/self/status"])
    assert int(status.split()[1], 16) == 0


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    path = install(tmp_path)
    path.write_bytes(b"")
    assert install(tmp_path).read_bytes() == elf("x86_64")


def test_unknown_machine() -> None:
    with pytest.raises(NotSupported, match="--init-path"):
        elf("vax")
