"""Test support: what of the engine's is in the kernel and on the disk, to be compared later.

Nothing of the engine is imported here: a mistake in its own book-keeping must not hide a leak. A
census holds names, not numbers of them, so that a difference says at once what was left. What an
engine that lives in other roots has is not looked at, so that one may run beside the tests.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from tests import polling

CGROUPS = Path("/sys/fs/cgroup")
PROCESS = re.compile(r"longshore")
# They end by themselves some time after the last transfer.
IDLE_WORKERS = ("longshore-images", "longshore-unpack")
DAEMON = re.compile(
    r"longshored|longshore-(lifecycle|zygote|spare-job|spare|init|start|shim [0-9a-f]{12})"
)
DEFAULT_ROOT = "/run/longshore"
# The bridges of this process's engines; other test runs may be under way.
TEST_BRIDGE = f"lsb{os.getpid() % 10**7}n"
LINK = re.compile(rf"ve[0-9a-f]{{11}}|{TEST_BRIDGE}.*")
NFT_JSON = 1 << 4


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    pid: int
    parent: int
    state: str
    started: int
    title: str


def processes() -> list[ProcessInfo]:
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            title = Path(f"/proc/{entry}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        values = stat[stat.rindex(")") + 2 :].split()
        text = title.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        found.append(ProcessInfo(int(entry), int(values[1]), values[0], int(values[19]), text))
    return found


def kill(pid: int) -> None:
    """kill -9, and wait until the process is no more."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    polling.until(lambda: not _alive(pid), f"process {pid} to die")


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def unmount_below(root: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for point in reversed(mounts()):
        if Path(point).is_relative_to(root):
            libc.umount2(point.encode(), 2)  # MNT_DETACH


@dataclass(frozen=True, slots=True)
class Others:
    """The engines that live in other roots than ours: their processes and their containers."""

    pids: frozenset[int]
    containers: frozenset[str]  # short ids

    @classmethod
    def find(cls, roots: Sequence[Path]) -> Others:
        daemons = []
        for process in processes():
            match = DAEMON.match(process.title)
            if match:
                root = process.title[match.end() :].strip() or DEFAULT_ROOT
                daemons.append((process, match.group(), root))
        alive = {root for _, name, root in daemons if name == "longshore-lifecycle"}
        mine = {str(root) for root in roots}
        theirs = [daemon for daemon in daemons if daemon[2] in alive - mine]
        return cls(
            frozenset(process.pid for process, _, _ in theirs),
            frozenset(name.split()[1] for _, name, _ in theirs if " " in name),
        )


def cgroups(others: Others) -> Iterator[str]:
    for directory, _, _ in os.walk(CGROUPS):
        relative = os.path.relpath(directory, CGROUPS)
        parts = relative.split(os.sep)
        ours = any(part.startswith("longshore") for part in parts)
        if ours and not any(part[:12] in others.containers for part in parts):
            yield relative


def remove_cgroups(names: Iterable[str]) -> None:
    wanted = set(names)
    for directory, _, _ in os.walk(CGROUPS, topdown=False):
        if wanted & set(directory.split(os.sep)):
            for pid in Path(directory, "cgroup.procs").read_text().split():
                kill(int(pid))
            os.rmdir(directory)


def links() -> Iterator[str]:
    for name in os.listdir("/sys/class/net"):
        master = Path("/sys/class/net", name, "master")
        elsewhere = master.exists() and not master.resolve().name.startswith(TEST_BRIDGE)
        if LINK.fullmatch(name) and not elsewhere:
            yield name


def remove_link(name: str) -> None:
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=name):
            netlink.link("del", index=index)


def nft(command: str) -> list[dict[str, Any]]:
    """Run one nft command in this process; the JSON that it prints.

    A listing fails where somebody else changes the ruleset meanwhile, so it is tried again.
    """
    for _ in range(5):
        status, printed, error = _nft_once(command)
        if status == 0:
            return list(json.loads(printed)["nftables"]) if printed else []
    raise AssertionError(f"nft {command}: {error.decode()}")


def _nft_once(command: str) -> tuple[int, bytes, bytes]:
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    try:
        library.nft_ctx_output_set_flags(context, NFT_JSON)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        status = library.nft_run_cmd_from_buffer(context, command.encode())
        printed = library.nft_ctx_get_output_buffer(context) or b""
        return status, printed, library.nft_ctx_get_error_buffer(context) or b""
    finally:
        library.nft_ctx_free(context)


def tables() -> Iterator[tuple[str, str]]:
    for entry in nft("list tables"):
        found = entry.get("table")
        if found and found["name"].startswith("longshore"):
            yield found["family"], found["name"]


def table(family: str, name: str) -> list[dict[str, Any]]:
    """What is in a table; nothing if it went away after it was listed."""
    try:
        return nft(f"list table {family} {name}")
    except AssertionError:
        return []


def tables_of(bridge: str) -> set[tuple[str, str]]:
    """The tables that speak of ``bridge``."""
    return {which for which in tables() if bridge in json.dumps(table(*which))}


def remove_tables(which: set[tuple[str, str]]) -> None:
    for family, name in which:
        nft(f"add table {family} {name}\ndelete table {family} {name}")


def accept_forwarding(bridge: str) -> list[str]:
    """Where another engine's firewall drops forwarded packets, let this bridge's pass.

    Returns the commands that undo it. The rules are such that iptables can show them too.
    """
    undo = []
    for entry in nft("list chains"):
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain.get("policy") != "drop":
            continue
        where = f"{chain['family']} {chain['table']} {chain['name']}"
        for direction in ("iifname", "oifname"):
            nft(f'insert rule {where} {direction} "{bridge}" accept')
        for listed in nft(f"list chain {where}"):
            rule = listed.get("rule")
            if rule and bridge in json.dumps(rule["expr"]):
                undo.append(f"delete rule {where} handle {rule['handle']}")
    return undo


def firewall(others: Others) -> Iterator[str]:
    for family, name in tables():
        content = table(family, name)
        if others.pids and TEST_BRIDGE not in json.dumps(content):
            continue
        for entry in content:
            for kind, value in entry.items():
                if kind not in ("metainfo", "chain"):
                    yield from _elements(f"{family} {name}", kind, value)


def _elements(table: str, kind: str, value: dict[str, Any]) -> Iterator[str]:
    """One line for each rule and each element; handles and counters change by themselves."""
    if kind in ("map", "set"):
        for element in value.get("elem", []):
            yield f"{table} {value['name']}: {json.dumps(element)}"
    elif kind == "rule":
        plain = [part for part in value["expr"] if "counter" not in part]
        yield f"{table} {value['chain']}: {json.dumps(plain)}"
    else:
        yield f"{table}: {kind} {value['name']}"


def titles(others: Others) -> Iterator[str]:
    everything = [process for process in processes() if process.pid not in others.pids]
    ours = {p.pid for p in everything if PROCESS.match(p.title)}
    counted: Counter[str] = Counter()
    for process in everything:
        if process.state == "Z" and process.parent in ours:
            counted["zombie"] += 1
        elif process.pid in ours and not process.title.startswith(IDLE_WORKERS):
            counted[process.title] += 1
    for title, count in counted.items():
        yield from (f"{title} #{number}" for number in range(1, count + 1))


def files(roots: Sequence[Path]) -> Iterator[str]:
    """Sockets, directories and files: all below an exec root, two levels of a data root."""
    for root in roots:
        volatile = root.is_relative_to("/run")
        for directory, names, leaves in os.walk(root):
            depth = len(Path(directory).relative_to(root).parts)
            if depth or volatile:
                yield from (os.path.join(directory, name) for name in names)
            if volatile:
                yield from (os.path.join(directory, leaf) for leaf in leaves)
            elif depth == 1:
                names.clear()


@dataclass(frozen=True, slots=True)
class Census:
    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    firewall: frozenset[str]
    processes: frozenset[str]
    files: frozenset[str]

    @classmethod
    def take(cls, roots: Sequence[Path] = ()) -> Census:
        others = Others.find(roots)
        return cls(
            mounts=frozenset(mounts()),
            cgroups=frozenset(cgroups(others)),
            links=frozenset(links()),
            firewall=frozenset(firewall(others)),
            processes=frozenset(titles(others)),
            files=frozenset(files(roots)),
        )

    def left_since(self, earlier: Census) -> dict[str, list[str]]:
        """What is here and was not in ``earlier``, by kind; empty if nothing was left."""
        kinds = [field.name for field in fields(self)]
        new = {kind: sorted(getattr(self, kind) - getattr(earlier, kind)) for kind in kinds}
        return {kind: names for kind, names in new.items() if names}


def assert_nothing_left(earlier: Census, roots: Sequence[Path] = (), timeout: float = 15.0) -> None:
    """Cleaning up goes on after the client has its answer, so this waits for it to end."""
    polling.until(
        lambda: not Census.take(roots).left_since(earlier),
        "everything to be cleaned up",
        timeout=timeout,
        step=0.1,
        explain=lambda: json.dumps(Census.take(roots).left_since(earlier), indent=1),
    )
