"""Library of lifecycle: processes executed in a running container.

An exec is known from its creation until its container is gone, or five minutes after its end if its
container runs on, as in Docker. It lives in memory only: what runs is the shim's, and ends with it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from dataclasses import dataclass, field
from typing import Any

from common.errors import Conflict, InvalidArgument, NotFound
from common.ids import new_id
from lifecycle import apparmor, jobs, security, spec, status
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.detach import parse_keys
from lifecycle.engine import Engine
from shim.protocol import ShimError

KEPT_SECONDS = 300.0
START_SECONDS = 10.0

NOT_FOUND, NOT_EXECUTABLE = 127, 126
# Users that need not be looked up.
NUMBERS = re.compile("[0-9]{1,9}(:[0-9]{1,9})?")
KILLED = 137


@dataclass(eq=False, slots=True)
class Exec:
    id: str
    container: Container
    request: pb.CreateExecRequest
    engine: Engine
    running: bool = False
    was_started: bool = False
    exit_code: int | None = None
    pid: int = 0
    can_resize: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    def exited(self, code: int) -> None:
        """Called with the shim's report, or when the shim is gone."""
        if self.exit_code is not None or not self.was_started:
            return
        self.running, self.exit_code = False, code
        self.container.execs_changed()
        self.end.set()
        self.engine.publish(self.container, "exec_die", {"execID": self.id, "exitCode": str(code)})
        self.forget_later()

    def forget_later(self) -> None:
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self.container.execs.pop, self.id, None)

    def lost(self) -> None:
        """Its container has ended; one that was never started cannot be any more."""
        if self.was_started:
            self.exited(KILLED)
        else:
            self.container.execs.pop(self.id, None)
            self.container.execs_changed()

    def describe(self) -> pb.Exec:
        return pb.Exec(
            id=self.id,
            container_id=self.container.id,
            running=self.running,
            exit_code=self.exit_code,
            pid=self.pid,
            request=self.request,
        )


async def create(engine: Engine, request: pb.CreateExecRequest) -> Exec:
    container = engine.containers.find(request.ref)
    require_running(container, request.ref)
    if not request.cmd:
        raise InvalidArgument("No exec command specified")
    if request.HasField("detach_keys"):
        parse_keys(request.detach_keys)
    if request.user and not NUMBERS.fullmatch(request.user):
        await jobs.run(engine, container, "user", {"user": request.user})
        require_running(container, request.ref)
    execution = Exec(new_id(), container, request, engine)
    container.execs[execution.id] = execution
    container.execs_changed()
    _publish(engine, execution, "exec_create")
    return execution


def find(engine: Engine, exec_id: str) -> Exec:
    for container in engine.containers:
        if exec_id in container.execs:
            return container.execs[exec_id]
    raise NotFound(f"No such exec instance: {exec_id}")


async def start(engine: Engine, request: pb.StartExecRequest) -> pb.StartExecReply:
    """Run it. The client's descriptor goes to the shim, which closes it at the end."""
    with engine.streams.claimed(request.stream.token) as descriptor:
        execution = find(engine, request.id)
        if execution.was_started:
            ran = "is already running" if execution.running else "has already run"
            raise Conflict(f"exec command {request.id} {ran}")
        require_running(execution.container)
        execution.was_started = True
        tty = request.tty
        if descriptor >= 0:
            os.write(descriptor, request.stream.head_tty if tty else request.stream.head_plain)
        try:
            await run(engine, execution, request, descriptor, framed=not tty)
        except ShimError as error:
            failure = failed(execution, error)
            if request.detach:
                raise InvalidArgument(failure) from error
            return pb.StartExecReply(tty=tty, failure=failure)
        return pb.StartExecReply(tty=tty)


async def run(
    engine: Engine,
    execution: Exec,
    request: pb.StartExecRequest,
    descriptor: int,
    *,
    framed: bool = False,
    timeout: float = 0.0,
) -> None:
    """Have the shim run it, for ``timeout`` seconds at most; ShimError if it cannot be started."""
    execution.was_started = True
    container, asked = execution.container, execution.request
    shim = require_running(container)
    _publish(engine, execution, "exec_start")
    fields: dict[str, Any] = {
        "exec_id": execution.id,
        "process": {
            **oci_process(container.record, asked, request),
            **confinement(engine, container.record),
        },
        "stdin": asked.attach_stdin and not request.detach,
        "stdout": asked.attach_stdout,
        "stderr": asked.attach_stderr,
        "framed": framed,
        "detach_keys": detach_keys(asked),
        "detach": request.detach,
        "privileged": asked.privileged,
        "timeout": timeout,
    }
    if request.stream.early:
        fields["early"] = base64.b64encode(request.stream.early).decode()
    execution.running = True
    answer = await shim.call("exec", [descriptor] if descriptor >= 0 else [], **fields)
    execution.pid = int(answer["pid"])
    execution.can_resize.set()


def detach_keys(asked: pb.CreateExecRequest) -> list[int]:
    """Only a terminal with a keyboard can be left by keys."""
    if not (asked.tty and asked.attach_stdin):
        return []
    return parse_keys(asked.detach_keys)


def confinement(engine: Engine, record: pb.Container) -> dict[str, Any]:
    """What the container's own process is bound by, a privileged exec too."""
    host, default = record.host_config, engine.options.no_new_privileges
    process: dict[str, Any] = {"noNewPrivileges": security.no_new_privileges(host, default=default)}
    if profile := apparmor.applied(record.apparmor_profile):
        process["apparmorProfile"] = profile
    return process


def oci_process(
    record: pb.Container, asked: pb.CreateExecRequest, request: pb.StartExecRequest
) -> dict[str, Any]:
    config, host = record.config, record.host_config
    base = spec.environment(config, config.hostname)
    if asked.tty and not config.tty:
        base = spec.merge_environment(["TERM=xterm"], base)
    process: dict[str, Any] = {
        "args": list(asked.cmd),
        "cwd": asked.working_dir or config.working_dir or "/",
        "env": spec.merge_environment(base, asked.env),
        "terminal": asked.tty,
        "user": spec.user(asked.user or config.user, () if asked.user else host.group_add.values),
        "capabilities": spec.capability_sets(host, privileged=asked.privileged),
        "rlimits": spec.rlimits(host, ()),
    }
    height = request.console_height or asked.console_height
    width = request.console_width or asked.console_width
    if asked.tty and height:
        process["consoleSize"] = {"height": height, "width": width}
    return process


async def resize(engine: Engine, request: pb.ResizeRequest) -> None:
    """Waits for the start, since clients send the size as early as they can."""
    execution = find(engine, request.ref)
    try:
        async with asyncio.timeout(START_SECONDS):
            await execution.can_resize.wait()
    except TimeoutError:
        raise TimeoutError("timeout waiting for exec session ready") from None
    shim = require_running(execution.container)
    await shim.call("resize", exec_id=execution.id, height=request.height, width=request.width)


def require_running(container: Container, reference: str = "") -> Any:
    """The shim of a container that can execute; raises Docker's conflicts."""
    if container.status == status.PAUSED:
        name = reference or container.id
        raise Conflict(f"Container {name} is paused, unpause the container before exec")
    if container.status == status.RESTARTING:
        raise Conflict(
            f"Container {container.id} is restarting, wait until the container is running"
        )
    if not container.has_process or container.shim is None:
        raise Conflict(f"container {container.id} is not running")
    return container.shim


def failed(execution: Exec, error: ShimError) -> str:
    """Docker's text and code for a program that could not be started."""
    text = str(error)
    execution.running = False
    execution.exit_code = NOT_EXECUTABLE
    if "executable file not found" in text or "no such file or directory" in text:
        execution.exit_code = NOT_FOUND
    execution.container.execs_changed()
    execution.can_resize.set()
    execution.end.set()
    execution.forget_later()
    return f"OCI runtime exec failed: exec failed: unable to start container process: {text}"


def _publish(engine: Engine, execution: Exec, action: str) -> None:
    command = " ".join(execution.request.cmd)
    engine.publish(execution.container, f"{action}: {command}", {"execID": execution.id})
