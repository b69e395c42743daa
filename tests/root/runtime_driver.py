"""Test support: a process of one thread that calls the runtime's library as a shim does.

Started by runtime_lab.py; one JSON request a line on stdin, one JSON answer a line on stdout. The
tests' own process has threads, from which no container may be cloned.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from runtime import container, scripted, spec
from runtime.container import ExecProcess, InitProcess, Stdio
from runtime.errors import RuntimeFailure
from runtime.jsonfields import decode
from runtime.spec import Mount

created: dict[str, InitProcess] = {}
Answer = dict[str, Any]


def outputs(request: Answer) -> Stdio:
    path = Path(request["output"])
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    return Stdio(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), fd, fd)


def close(stdio: Stdio) -> None:
    os.close(stdio.stdin)
    os.close(stdio.stdout)


def create(request: Answer) -> Answer:
    bundle = Path(request["bundle"])
    stdio = outputs(request)
    seen: list[int] = []
    try:
        made = container.create(
            spec.parse((bundle / "config.json").read_bytes()),
            container_id=request["id"],
            bundle=bundle,
            state_root=Path(request["state_root"]),
            stdio=stdio,
            rootfs_mounts=[decode(Mount, each) for each in request.get("rootfs_mounts", [])],
            on_namespaces=seen.append,
        )
    finally:
        close(stdio)
    created[request["id"]] = made
    assert seen == [made.pid]
    return {"pid": made.pid}


def start(request: Answer) -> Answer:
    container.start(created[request["id"]])
    return {}


def wait(request: Answer) -> Answer:
    made = created[request["id"]]
    return finish(made, Path(request["output"]))


def finish(process: InitProcess | ExecProcess, output: Path) -> Answer:
    if process.console is not None:
        with output.open("ab") as file:
            file.write(drain(process.console))
        os.close(process.console)
    result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
    assert result is not None
    return {"code": result.si_status + (0 if result.si_code == os.CLD_EXITED else 128)}


def drain(console: int) -> bytes:
    data = b""
    try:
        while chunk := os.read(console, 4096):
            data += chunk
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    return data


def exec_(request: Answer) -> Answer:
    saved = container.load(Path(request["state_root"]), request["id"])
    stdio = outputs(request)
    script_is_possible = scripted.possible
    if request.get("by_fork"):
        scripted.possible = lambda plan: False
    try:
        process = container.exec_process(
            saved,
            spec.parse_process(request["process"]),
            stdio=stdio,
            seccomp=created[request["id"]].spec.linux.seccomp,
        )
    finally:
        scripted.possible = script_is_possible
        close(stdio)
    answer = finish(process, Path(request["output"]))
    os.close(process.pidfd)
    return answer


def delete(request: Answer) -> Answer:
    made = created.pop(request["id"], None)
    if made is not None:
        container.delete(made.state, made.spec, force=True)
        made.close()
        with suppress(ChildProcessError):  # "wait" has reaped it already
            os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED)
        os.close(made.pidfd)
    return {}


def kill(request: Answer) -> Answer:
    saved = created[request["id"]].state
    container.kill(saved, request.get("signal", signal.SIGKILL))
    return {}


def status(request: Answer) -> Answer:
    return {"status": container.status(created[request["id"]].state)}


def pause(request: Answer) -> Answer:
    container.pause(created[request["id"]].state)
    return {}


def resume(request: Answer) -> Answer:
    container.resume(created[request["id"]].state)
    return {}


def descriptors(_request: Answer) -> Answer:
    """What this process holds, to see that nothing stays open after a failure."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the listing's own
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"descriptors": sorted(links), "children": children}


def leak(request: Answer) -> Answer:
    """Open inheritable descriptors of a host directory, as a careless caller might."""
    for _ in range(request["count"]):
        os.set_inheritable(os.open("/", os.O_RDONLY), True)
    return {}


def measure(request: Answer) -> Answer:
    begin = time.perf_counter()
    create(request)
    ready = time.perf_counter()
    start(request)
    return {"create": ready - begin, "start": time.perf_counter() - ready}


OPERATIONS = {
    "create": create,
    "start": start,
    "wait": wait,
    "exec": exec_,
    "delete": delete,
    "kill": kill,
    "status": status,
    "pause": pause,
    "resume": resume,
    "descriptors": descriptors,
    "leak": leak,
    "measure": measure,
}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = OPERATIONS[request["op"]](request)
        except RuntimeFailure as failure:
            answer = {
                "failure": {
                    "step": failure.step,
                    "errno": failure.errno,
                    "path": failure.path,
                    "message": failure.message,
                }
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
