"""Library: process.scheduler, process.ioPriority and CPU affinity; prepared in the parent.

The child applies them while it still has CAP_SYS_NICE. What the runtime itself was given (a nice
value, pinning) is not the container's business, so affinity is reset where nothing is asked for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from runtime import syscalls
from runtime.errors import RuntimeFailure
from runtime.spec import Process, Scheduler

# linux/sched.h, linux/ioprio.h
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
IOPRIO_CLASS_SHIFT = 13
DEFAULT_TIMER_SLACK = 50_000  # nanoseconds, the kernel's own default


@dataclass(frozen=True, slots=True)
class Scheduling:
    attributes: syscalls.sched_attr | None
    io_priority: int | None
    affinity: frozenset[int]


def prepare(process: Process) -> Scheduling:
    return Scheduling(
        attributes=_attributes(process.scheduler) if process.scheduler else None,
        io_priority=_io_priority(process),
        affinity=_affinity(process),
    )


def _attributes(scheduler: Scheduler) -> syscalls.sched_attr:
    if scheduler.policy not in POLICIES:
        raise RuntimeFailure("config", f"invalid scheduler policy: {scheduler.policy}")
    flags = 0
    for name in scheduler.flags:
        if name not in FLAGS:
            raise RuntimeFailure("config", f"invalid scheduler flag: {name}")
        flags |= FLAGS[name]
    return syscalls.sched_attr(
        sched_policy=POLICIES[scheduler.policy],
        sched_flags=flags,
        sched_nice=scheduler.nice,
        sched_priority=scheduler.priority,
        sched_runtime=scheduler.runtime,
        sched_deadline=scheduler.deadline,
        sched_period=scheduler.period,
    )


def _io_priority(process: Process) -> int | None:
    wanted = process.io_priority
    if wanted is None:
        return None
    if wanted.class_ not in IO_CLASSES or not 0 <= wanted.priority <= 7:
        raise RuntimeFailure("config", f"invalid ioPriority: {wanted.class_} {wanted.priority}")
    return IO_CLASSES[wanted.class_] << IOPRIO_CLASS_SHIFT | wanted.priority


def _affinity(process: Process) -> frozenset[int]:
    wanted = process.exec_cpu_affinity
    text = (wanted.final or wanted.initial) if wanted else ""
    return parse_cpus(text) if text else frozenset(range(os.cpu_count() or 1))


def parse_cpus(text: str) -> frozenset[int]:
    """ "0-3,7" → {0, 1, 2, 3, 7}."""
    cpus: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            if not numbers:
                raise ValueError(part)
            cpus.update(numbers)
    except ValueError as error:
        raise RuntimeFailure("config", f"invalid CPU list: {text!r}") from error
    return frozenset(cpus)


def apply(scheduling: Scheduling) -> None:
    with suppress(OSError):  # the cpuset may have none of them, and its own are in force then
        os.sched_setaffinity(0, scheduling.affinity)
    syscalls.prctl(syscalls.PR_SET_TIMERSLACK, DEFAULT_TIMER_SLACK)
    try:
        if scheduling.attributes is not None:
            syscalls.sched_setattr(scheduling.attributes)
        if scheduling.io_priority is not None:
            syscalls.ioprio_set(scheduling.io_priority)
    except OSError as error:
        raise failure(error) from error


def failure(error: OSError) -> RuntimeFailure:
    return RuntimeFailure.from_os("scheduler", error, "error setting scheduler")
