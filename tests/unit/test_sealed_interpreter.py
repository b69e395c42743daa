"""What a Python process may not do any more once it is in a container."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.archives import CHECKOUT

REFUSED = (
    "import colorsys",
    "open('/etc/passwd')",
    "io.open('/etc/passwd', 'rb', buffering=0)",
    "pathlib.Path('/etc/passwd').read_text()",
    "ctypes.CDLL('libm.so.6')",
    "subprocess.Popen(['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.system('true')",
    "socket.getaddrinfo('localhost', 1)",
    "eval('1')",
    "'x'.encode('cp037')",
    "runpy.run_path('/etc/passwd')",
)


def run(statement: str, *, sealed: bool) -> str:
    script = (
        "import ctypes, io, os, pathlib, runpy, socket, subprocess, sys\n"
        "from runtime import program\n"
        f"def it():\n    {statement}\n"
        + ("program.forbid_imports()\n" if sealed else "")
        + "try:\n    it()\nexcept BaseException as error:\n"
        "    os.write(1, type(error).__name__.encode())\n"
        "else:\n    os.write(1, b'done')\nos._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("statement", REFUSED)
def test_refused(statement: str) -> None:
    assert run(statement, sealed=True) == "PermissionError"


def test_allowed() -> None:
    assert run("os.close(os.open('/', os.O_PATH))", sealed=True) == "done"
    assert run("import colorsys", sealed=False) == "done"
