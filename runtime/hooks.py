"""Library: OCI hooks: programs run around a container's life with its state on their stdin.

prestart, createRuntime, poststart and poststop run in the runtime's namespaces, createContainer
and startContainer on the container's child side. A hook gets the environment that the config says
and no other, the directory "/", and no descriptors but its three.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence

import orjson

from runtime import syscalls
from runtime.errors import RuntimeFailure, reason
from runtime.spec import Hook

OUTPUT_LIMIT = 4096


def state_json(
    *,
    oci_version: str,
    container_id: str,
    status: str,
    pid: int,
    bundle: str,
    annotations: object,
) -> bytes:
    document: dict[str, object] = {"ociVersion": oci_version, "id": container_id, "status": status}
    if pid:
        document["pid"] = pid
    document["bundle"] = bundle
    if annotations:
        document["annotations"] = annotations
    return orjson.dumps(document)


def run_all(name: str, hooks: Sequence[Hook], state: bytes) -> None:
    """In order; the first failure ends it."""
    for number, hook in enumerate(hooks):
        try:
            problem = _run(hook, state)
        except OSError as error:
            problem = f"fork/exec {hook.path}: {reason(error.errno or 0)}"
        if problem:
            message = f"error running {name} hook #{number}: {problem}"
            raise RuntimeFailure("hooks", message, path=hook.path)


def _run(hook: Hook, state: bytes) -> str:
    """What went wrong, or nothing."""
    output = os.memfd_create("hook-output", os.MFD_CLOEXEC)
    stdin = os.memfd_create("hook-state", os.MFD_CLOEXEC)
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        argv = [os.fsencode(argument) for argument in hook.args or (hook.path,)]
        vectors = (
            syscalls.string_vector(argv),
            syscalls.string_vector([os.fsencode(entry) for entry in hook.env]),
        )
        os.stat(hook.path)
        # Not clone3, which a container's filter may refuse to its startContainer hooks.
        pid = os.fork()
        if pid == 0:
            _become(hook.path, vectors, stdin, output)
        return _wait(hook, os.pidfd_open(pid), output)
    finally:
        os.close(output)
        os.close(stdin)


def _become(
    path: str,
    vectors: tuple[syscalls.StringVector, syscalls.StringVector],
    stdin: int,
    output: int,
) -> None:
    try:
        syscalls.default_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir("/")
        for number, fd in enumerate((stdin, output, output)):
            os.dup2(fd, number)
        syscalls.close_range(3)
        syscalls.execve(os.fsencode(path), *vectors)
    except OSError as error:
        os.write(2, f"exec {path}: {reason(error.errno or 0)}".encode())
    finally:
        os._exit(127)


def _wait(hook: Hook, pidfd: int, output: int) -> str:
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        deadline = None if hook.timeout is None else time.monotonic() + hook.timeout
        while not poller.poll(None if deadline is None else _milliseconds(deadline)):
            if deadline is not None and time.monotonic() >= deadline:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
                return f"hook ran past specified timeout of {hook.timeout}s"
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
    if result is not None and result.si_code == os.CLD_EXITED and result.si_status == 0:
        return ""
    status = result.si_status if result is not None else -1
    exited = result is not None and result.si_code == os.CLD_EXITED
    what = f"exit status {status}" if exited else f"signal: {status}"
    text = os.pread(output, OUTPUT_LIMIT, 0).decode(errors="replace").strip()
    return f"{what}, output: {text}" if text else what


def _milliseconds(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000) + 1)
