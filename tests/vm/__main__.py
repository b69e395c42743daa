"""Command ``python -m tests.vm [pytest arguments]``: run tests on cgroup v2, in a virtual machine.

As root on Debian. ``--exec COMMAND...`` runs something else instead of pytest; without arguments it
is the tests for which the kernel matters.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.vm import machine

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 1800.0
TESTS = (
    *("tests/root/test_cgroups.py", "tests/root/test_cgroups_v2.py"),
    *("tests/compat/test_cgroup2.py", "tests/compat/test_limits.py", "tests/compat/test_run.py"),
    *("tests/compat/test_apparmor.py", "tests/compat/test_network_kinds.py"),
)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--exec"]:
        command = arguments[1:]
    else:
        # Emulation makes everything some ten times slower.
        pytest = ["-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=300", "--tb=short"]
        command = [sys.executable, *pytest, *(arguments or TESTS)]
    return machine.run(REPOSITORY, command, TIMEOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
