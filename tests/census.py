"""Test support: what of the engine's is in the kernel and on the disk, to be compared later.

Nothing of the engine is imported here: a mistake in its own book-keeping must not hide a leak. A
census holds names, not numbers of them, so that a difference says at once what was left.
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
LINK = re.compile(r"ve[0-9a-f]{11}|lsb.*")
PROCESS = re.compile(r"longshore")
# Ends by itself some time after the last transfer.
IDLE_WORKER = "longshore-images"
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


def cgroups() -> Iterator[str]:
    for directory, _, _ in os.walk(CGROUPS):
        relative = os.path.relpath(directory, CGROUPS)
        if any(part.startswith("longshore") for part in relative.split(os.sep)):
            yield relative


def remove_cgroups(names: Iterable[str]) -> None:
    wanted = set(names)
    for directory, _, _ in os.walk(CGROUPS, topdown=False):
        if wanted & set(directory.split(os.sep)):
            for pid in Path(directory, "cgroup.procs").read_text().split():
                kill(int(pid))
            os.rmdir(directory)


def links() -> Iterator[str]:
    return (name for name in os.listdir("/sys/class/net") if LINK.fullmatch(name))


def remove_link(name: str) -> None:
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=name):
            netlink.link("del", index=index)


def nft(command: str) -> list[dict[str, Any]]:
    """Run one nft command in this process; the JSON that it prints."""
    library = ctypes.CDLL("libnftables.so.1")
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    try:
        library.nft_ctx_output_set_flags(context, NFT_JSON)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        library.nft_run_cmd_from_buffer(context, command.encode())
        printed = library.nft_ctx_get_output_buffer(context)
        return list(json.loads(printed)["nftables"]) if printed else []
    finally:
        library.nft_ctx_free(context)


def tables() -> Iterator[tuple[str, str]]:
    for entry in nft("list tables"):
        table = entry.get("table")
        if table and table["name"].startswith("longshore"):
            yield table["family"], table["name"]


def remove_tables(bridge: str) -> None:
    """Remove the tables that speak of ``bridge``."""
    for family, name in tables():
        if bridge in json.dumps(nft(f"list table {family} {name}")):
            nft(f"delete table {family} {name}")


def firewall() -> Iterator[str]:
    for family, name in tables():
        for entry in nft(f"list table {family} {name}"):
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


def titles() -> Iterator[str]:
    everything = processes()
    ours = {p.pid for p in everything if PROCESS.match(p.title)}
    counted: Counter[str] = Counter()
    for process in everything:
        if process.state == "Z" and process.parent in ours:
            counted["zombie"] += 1
        elif process.pid in ours and not process.title.startswith(IDLE_WORKER):
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
        return cls(
            mounts=frozenset(mounts()),
            cgroups=frozenset(cgroups()),
            links=frozenset(links()),
            firewall=frozenset(firewall()),
            processes=frozenset(titles()),
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
