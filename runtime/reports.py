"""Library: the commands of ``longshore-runtime`` that only look: state, list, ps, events.

The JSON has runc's field names, for those who parse it.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import subprocess
import sys
import time

import orjson

from runtime import container
from runtime.cgroups import manager as cgroup_manager
from runtime.cgroups.stats import BlockIOEntry, Stats
from runtime.container import State, Status
from runtime.errors import RuntimeFailure, WrongStatus

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def state(saved: State) -> dict[str, object]:
    status = container.status(saved)
    document: dict[str, object] = {
        "ociVersion": saved.oci_version,
        "id": saved.id,
        "pid": 0 if status is Status.STOPPED else saved.pid,
        "status": status,
        "bundle": saved.bundle,
        "rootfs": saved.rootfs,
        "created": saved.created,
        "owner": "",
    }
    if saved.annotations:
        document["annotations"] = dict(saved.annotations)
    return document


def list_(options: argparse.Namespace) -> int:
    names = container.list_ids(options.root)
    if options.quiet:
        sys.stdout.write("".join(f"{name}\n" for name in names))
        return 0
    states = [state(container.load(options.root, name)) for name in names]
    if options.format == "json":
        sys.stdout.write(orjson.dumps(states or None).decode() + "\n")
        return 0
    columns = ("id", "pid", "status", "bundle", "created", "owner")
    rows = [[column.upper() for column in columns]]
    rows += [[str(each[column]) or "root" for column in columns] for each in states]
    widths = [max(len(row[number]) for row in rows) for number in range(len(columns))]
    for row in rows:
        line = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    return 0


def ps(options: argparse.Namespace) -> int:
    pids = container.pids(container.load(options.root, options.id))
    if options.format == "json":
        sys.stdout.write(orjson.dumps(pids).decode() + "\n")
        return 0
    command = ["ps", *(options.ps_options or ["-ef"])]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    header, *lines = listing.splitlines()
    if "PID" not in header.split():
        raise RuntimeFailure("ps", "couldn't find PID field in ps output")
    column = header.split().index("PID")
    wanted = {str(pid) for pid in pids}
    kept = [line for line in lines if len(line.split()) > column and line.split()[column] in wanted]
    sys.stdout.write("\n".join([header, *kept]) + "\n")
    return 0


def events(options: argparse.Namespace) -> int:
    saved = container.load(options.root, options.id)
    if container.status(saved) is Status.STOPPED:
        raise WrongStatus("events", f"container with id {saved.id} is not running")
    if options.stats:
        _print_stats(saved)
        return 0
    interval = _duration(options.interval)
    watch = cgroup_manager(saved.cgroup_path).watch_oom()
    poller = select.poll()
    if watch is not None:
        poller.register(watch.fd, select.POLLIN)
    seen = cgroup_manager(saved.cgroup_path).oom_kill_count()
    due = time.monotonic() + interval
    while container.status(saved) is not Status.STOPPED:
        poller.poll(max(0, (due - time.monotonic()) * 1000))
        if watch is not None:
            watch.drain()
        count = cgroup_manager(saved.cgroup_path).oom_kill_count()
        if count > seen:
            _print({"type": "oom", "id": saved.id})
        seen = max(seen, count)
        if time.monotonic() >= due:
            _print_stats(saved)
            due += interval
    if watch is not None:
        os.close(watch.fd)
    return 0


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if match is None or not float(match[1]):
        raise RuntimeFailure("events", f"invalid duration {text!r}: must be like 5s and above 0")
    return float(match[1]) * UNITS[match[2]]


def _print_stats(saved: State) -> None:
    _print({"type": "stats", "id": saved.id, "data": _stats(container.stats(saved))})


def _print(document: object) -> None:
    sys.stdout.write(orjson.dumps(document).decode() + "\n")
    sys.stdout.flush()


def _stats(stats: Stats) -> dict[str, object]:
    raw = dict(stats.memory.stat)
    usage = {
        "limit": stats.memory.limit or 0,
        "usage": stats.memory.usage,
        "max": stats.memory.max_usage,
        "failcnt": stats.memory.failcnt,
    }
    blkio = {
        "ioServiceBytesRecursive": _entries(stats.block_io.io_service_bytes_recursive),
        "ioServicedRecursive": _entries(stats.block_io.io_serviced_recursive),
        "ioQueueRecursive": _entries(stats.block_io.io_queue_recursive),
    }
    cpu = {
        "usage": {
            "total": stats.cpu.total,
            "percpu": list(stats.cpu.per_cpu),
            "kernel": stats.cpu.system,
            "user": stats.cpu.user,
        },
        "throttling": {
            "periods": stats.cpu.periods,
            "throttledPeriods": stats.cpu.throttled_periods,
            "throttledTime": stats.cpu.throttled_time,
        },
    }
    pids = {"current": stats.pids.current, "limit": stats.pids.limit or 0}
    memory = {"usage": usage, "cache": raw.get("cache", raw.get("file", 0)), "raw": raw}
    return {"cpu": cpu, "memory": memory, "pids": pids, "blkio": blkio}


def _entries(entries: tuple[BlockIOEntry, ...]) -> list[dict[str, object]]:
    return [{"major": e.major, "minor": e.minor, "op": e.op, "value": e.value} for e in entries]
