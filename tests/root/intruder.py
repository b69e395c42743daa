"""Program for test_runtime_races.py, run in a container: looks into every process that it can see.

It runs on this machine's interpreter, and needs nothing outside the standard library. Arguments: a
file of the host's that no container has, and how many processes are enough to have seen. It makes
/enough then, goes on until there is /stop, and prints what it got, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress


def look(pid: str, canary: str, got: dict[str, list[str]]) -> None:
    def add(what: str, value: str) -> None:
        if value not in got.setdefault(what, []):
            got[what].append(value)

    with suppress(OSError):
        os.stat(f"/proc/{pid}/root{canary}")
        add("root", pid)
    with suppress(OSError):
        os.stat(f"/proc/{pid}/cwd{canary}")
        add("cwd", pid)
    with suppress(OSError):
        if "busybox" in os.readlink(f"/proc/{pid}/exe"):
            return  # one of the container's own
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            add("capabilities", next(line.split()[1] for line in file if line.startswith("CapPrm")))
        for fd in os.listdir(f"/proc/{pid}/fd"):
            # By its kind: sockets and pipes have numbers.
            add("files", os.readlink(f"/proc/{pid}/fd/{fd}").partition("[")[0])


def main() -> None:
    canary, enough = sys.argv[1], int(sys.argv[2])
    own = {"1", str(os.getpid())}
    seen: set[str] = set()
    got: dict[str, list[str]] = {}
    while not os.path.exists("/stop"):
        for pid in os.listdir("/proc"):
            if pid.isdigit() and pid not in own:
                seen.add(pid)
                look(pid, canary, got)
        if len(seen) >= enough:
            os.close(os.open("/enough", os.O_CREAT))
    sys.stdout.write(json.dumps(got))


if __name__ == "__main__":
    main()
