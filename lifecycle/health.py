"""Library of lifecycle: health checks.

One task for each running container that has a check, from its start to its exit; a pause ends it
and an unpause begins another, as in Docker. A probe is an exec like a client's, with one end of a
socketpair where a client's connection would be, and the shim itself kills it when it takes too
long, so that none outlives a lifecycle that died. What the probes say is kept in the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass

from common.errors import EngineError, Unavailable
from lifecycle import execs, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container, describe
from lifecycle.engine import Engine
from shim.protocol import ShimError

INTERVAL = 30.0
TIMEOUT = 30.0
START_INTERVAL = 5.0
RETRIES = 3

LOG_LENGTH = 5
OUTPUT_LIMIT = 4096
FAILED = -1  # the exit code of a probe that has none of its own
STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"

# A probe counts from when it runs; what starts it gets this long, and what ends it as well.
GRACE_SECONDS = 30.0
KILL_SECONDS = 1.0  # for a shim that does not answer

KILLED = 137


@dataclass(frozen=True, slots=True)
class Check:
    """A container's health check with the defaults filled in; times are in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int

    @classmethod
    def of(cls, config: pb.Config) -> Check | None:
        """None where there is no check, or one that was turned off."""
        wanted = config.healthcheck
        match list(wanted.test.values):
            case ["CMD", *words] if words:
                command = words
            case ["CMD-SHELL", *words]:
                command = [*(config.shell.values or ("/bin/sh", "-c")), *words]
            case _:
                return None
        return cls(
            tuple(command),
            wanted.interval / 1e9 or INTERVAL,
            wanted.timeout / 1e9 or TIMEOUT,
            wanted.start_period / 1e9,
            wanted.start_interval / 1e9 or START_INTERVAL,
            wanted.retries or RETRIES,
        )


def begin(engine: Engine, container: Container) -> None:
    """A run of the container starts: nothing is known of it yet. The caller saves the record."""
    state = container.record.state
    if Check.of(container.record.config) is None:
        state.ClearField("health")
        return
    state.health.status = STARTING
    state.health.failing_streak = 0
    watch(engine, container)


def watch(engine: Engine, container: Container) -> None:
    """Probe from now on; also after an unpause, and when lifecycle was started anew."""
    check = Check.of(container.record.config)
    if check is not None:
        _cancel(container)
        container.health_task = engine.spawn(
            _monitor(engine, container, check), f"health check of {describe(container)}"
        )


def end(container: Container) -> None:
    """The run has ended or is paused. Docker calls what nobody probes unhealthy."""
    _cancel(container)
    if container.record.state.HasField("health"):
        container.record.state.health.status = UNHEALTHY


def _cancel(container: Container) -> None:
    if container.health_task is not None:
        container.health_task.cancel()
        container.health_task = None


async def _monitor(engine: Engine, container: Container, check: Check) -> None:
    # The age of the run, by a clock that nobody sets.
    age = (time.time_ns() - container.record.state.started_at) / 1e9
    started = time.monotonic() - max(0.0, age)
    while True:
        await asyncio.sleep(_interval(container, check, time.monotonic() - started))
        age = time.monotonic() - started
        result = await _probe(engine, container, check)
        if container.ending is None:  # else the exit is on its way here
            _take(engine, container, check, result, age)


def _interval(container: Container, check: Check, age: float) -> float:
    is_starting = container.record.state.health.status == STARTING
    return check.start_interval if is_starting and age < check.start_period else check.interval


def _take(
    engine: Engine, container: Container, check: Check, result: pb.HealthResult, age: float
) -> None:
    """Enter a probe's result, which began when the run had this ``age``."""
    health = container.record.state.health
    before = health.status
    health.log.append(result)
    del health.log[:-LOG_LENGTH]
    if result.exit_code == 0:
        health.failing_streak, health.status = 0, HEALTHY
    elif health.status != STARTING or age >= check.start_period:
        health.failing_streak += 1
        if health.failing_streak >= check.retries:
            health.status = UNHEALTHY
    engine.containers.save_state(container)
    if health.status != before:
        engine.publish(container, f"health_status: {health.status}")


async def _probe(engine: Engine, container: Container, check: Check) -> pb.HealthResult:
    result = pb.HealthResult(start=time.time_ns())
    try:
        result.exit_code, result.output = await _run(engine, container, check)
    except (EngineError, OSError) as error:
        result.exit_code, result.output = FAILED, str(error)
    result.end = time.time_ns()
    return result


async def _run(engine: Engine, container: Container, check: Check) -> tuple[int, str]:
    """The probe's exit code and output."""
    asked = pb.CreateExecRequest(
        ref=container.id, cmd=check.command, attach_stdout=True, attach_stderr=True
    )
    probe = await execs.create(engine, asked)
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            ours.setblocking(False)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await execs.run(
                        engine, probe, pb.StartExecRequest(), theirs.fileno(), timeout=check.timeout
                    )
            except TimeoutError:
                text = f"timed out starting health check for container {container.id}"
                raise Unavailable(text) from None
            except ShimError as error:
                return FAILED, execs.failed(probe, error)
            theirs.close()
            output = await _output(ours, probe, check.timeout + GRACE_SECONDS)
            took = time.monotonic() - begun
    finally:
        await _forget(container, probe)
    if took >= check.timeout and probe.exit_code in (None, KILLED):
        text = f"Health check exceeded timeout ({duration(check.timeout)})"
        return FAILED, f"{text}: {output}" if output else text
    if probe.exit_code is None:
        return FAILED, f"healthcheck for container {container.id} has no exit code"
    return probe.exit_code, output


async def _output(sock: socket.socket, probe: execs.Exec, seconds: float) -> str:
    """What the probe prints, as far as it is kept, when the probe has ended."""
    loop = asyncio.get_running_loop()
    output = bytearray()
    is_longer = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while data := await loop.sock_recv(sock, OUTPUT_LIMIT):
                room = OUTPUT_LIMIT - len(output)
                output += data[:room]
                is_longer = is_longer or len(data) > room
            await probe.end.wait()
    text = output.decode(errors="replace")
    return f"{text}..." if is_longer else text


async def _forget(container: Container, probe: execs.Exec) -> None:
    """Nobody asks for a probe's exec later; one that still runs has been cut off by a pause."""
    if probe.running and container.shim is not None and container.has_process:
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await container.shim.call("signal", signal=9, exec_id=probe.id)
    if not probe.running:
        container.execs.pop(probe.id, None)
        container.execs_changed()


def resume_all(engine: Engine) -> None:
    """Go on where an earlier lifecycle left off."""
    for container in engine.containers:
        if container.status == status.RUNNING:
            watch(engine, container)


def duration(seconds: float) -> str:
    """As Go prints a time.Duration: 1m30s, 1.5s, 200ms."""
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:.9g}s"
    hours, minutes = divmod(int(minutes), 60)
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
