"""Library: the command line of ``longshore-runtime``, which is runc's.

Only the parser; runtime/cli.py acts on what it returns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_ROOT = Path("/run/longshore-runtime")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="longshore-runtime", allow_abbrev=False)
    top.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="directory of the state")
    top.add_argument("--log", help="file for messages instead of stderr")
    top.add_argument("--log-format", choices=("text", "json"), default="text")
    top.add_argument("--debug", action="store_true")
    top.add_argument("--systemd-cgroup", action="store_true")
    top.add_argument("--rootless", choices=("auto", "true", "false"), default="auto")
    top.add_argument("--version", "-v", action="store_true")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    _create(commands.add_parser("create", help="create a container", allow_abbrev=False))
    _create(
        commands.add_parser("run", help="create and start a container", allow_abbrev=False),
        run=True,
    )
    _exec(commands.add_parser("exec", help="execute a process in a container", allow_abbrev=False))
    _update(commands.add_parser("update", help="change limits", allow_abbrev=False))
    for name, text in (
        ("start", "execute the program of a created container"),
        ("state", "print the state of a container"),
        ("pause", "suspend all processes"),
        ("resume", "continue all processes"),
    ):
        commands.add_parser(name, help=text).add_argument("id")
    delete = commands.add_parser("delete", help="remove what is left of a container")
    delete.add_argument("--force", "-f", action="store_true")
    delete.add_argument("id")
    kill = commands.add_parser("kill", help="send a signal (default: SIGTERM)")
    kill.add_argument("--all", "-a", action="store_true")
    kill.add_argument("id")
    kill.add_argument("signal", nargs="?", default="SIGTERM")
    _lists(commands)
    return top


def _lists(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser("list", help="list containers")
    listing.add_argument("--format", "-f", choices=("table", "json"), default="table")
    listing.add_argument("--quiet", "-q", action="store_true")
    processes = commands.add_parser("ps", help="list the processes of a container")
    processes.add_argument("--format", "-f", choices=("table", "json"), default="table")
    processes.add_argument("id")
    processes.add_argument("ps_options", nargs=argparse.REMAINDER)
    events = commands.add_parser("events", help="print counters and out-of-memory events")
    events.add_argument("--stats", action="store_true", help="print the counters once")
    events.add_argument("--interval", default="5s")
    events.add_argument("id")
    template = commands.add_parser("spec", help="write a config.json")
    template.add_argument("--bundle", "-b", type=Path, default=Path())
    commands.add_parser("features", help="print what this runtime supports")


def _create(command: argparse.ArgumentParser, *, run: bool = False) -> None:
    command.add_argument("--bundle", "-b", type=Path, default=Path())
    command.add_argument("--console-socket")
    command.add_argument("--pid-file", type=Path)
    command.add_argument("--no-pivot", action="store_true")
    command.add_argument("--no-new-keyring", action="store_true", help="accepted for compatibility")
    command.add_argument("--preserve-fds", type=int, default=0)
    if run:
        command.add_argument("--detach", "-d", action="store_true")
        command.add_argument("--keep", action="store_true")
    command.add_argument("id")


def _exec(command: argparse.ArgumentParser) -> None:
    command.add_argument("--console-socket")
    command.add_argument("--cwd")
    command.add_argument("--env", "-e", action="append", default=[])
    command.add_argument("--tty", "-t", action="store_true")
    command.add_argument("--user", "-u")
    command.add_argument("--additional-gids", "-g", type=int, action="append", default=[])
    command.add_argument("--process", "-p", type=Path)
    command.add_argument("--detach", "-d", action="store_true")
    command.add_argument("--pid-file", type=Path)
    command.add_argument("--process-label", default="")
    command.add_argument("--apparmor", default="")
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("--cap", "-c", action="append", default=[])
    command.add_argument("--preserve-fds", type=int, default=0)
    command.add_argument("--ignore-paused", action="store_true")
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)


# option: (section of OCI resources, key)
LIMITS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}


def _update(command: argparse.ArgumentParser) -> None:
    command.add_argument("--resources", "-r")
    for name in LIMITS:
        command.add_argument(f"--{name}", type=str if name.startswith("cpuset") else int)
    command.add_argument("id")


def limits(given: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The options of update as an OCI resources object."""
    resources: dict[str, dict[str, object]] = {}
    for name, (section, key) in LIMITS.items():
        value = getattr(given, name.replace("-", "_"))
        if value is not None:
            resources.setdefault(section, {})[key] = value
    return resources
