"""Library: a container run by another OCI runtime's command (runc, crun, runsc), inside the shim.

The command sees a bundle of ordinary form, ``<bundle>/runtime``: the root file system mounted in
a mount namespace that the shim makes for itself, so that the host never sees it and the shim's
end removes it, and a config.json in which names of users are numbers. The network is plugged
between ``create`` and ``start``. The command's own state is below ``<state_root>``, as the native
runtime's is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from runtime import cgroups, mounts, namespaces, spec, state, syscalls, users
from runtime.cgroups import OOMWatch
from runtime.errors import RuntimeFailure
from runtime.rootpath import Root
from shim import request as requests
from shim import spawn
from shim.container import Descriptors, Started, interface_counters, plug
from shim.protocol import MSG_CMSG_CLOEXEC, descriptors
from shim.request import StartRequest

COMMAND_SECONDS = 60.0
CONSOLE_SECONDS = 10.0
_CLONE_NEWNS = 0x20000  # linux/sched.h
_DIRECTORY = "runtime"
_PREFIX = "unable to start container process: "
_PROGRAM_ERRORS = {
    "executable file not found in $PATH": errno.ENOENT,
    "no such file or directory": errno.ENOENT,
    "permission denied": errno.EACCES,
    "is a directory": errno.EISDIR,
}


class ExternalContainer:
    def __init__(self, container_id: str, start: StartRequest) -> None:
        self._id = container_id
        self._runtime = start.runtime
        self._request = request = requests.creation(start.message)
        content = (request.bundle / "config.json").read_bytes()
        self._document: dict[str, Any] = orjson.loads(content)
        self._spec = spec.parse(content)
        self._bundle = request.bundle / _DIRECTORY
        self._rootfs = self._bundle / "rootfs"
        path = self._spec.linux.cgroups_path
        self._cgroup_path = path or f"{request.cgroup_parent or '/longshore'}/{container_id}"
        self._cgroup = cgroups.manager(self._cgroup_path)
        self._pid = 0
        self._pidfd = -1
        self._created = False
        self._user_namespaces: list[int] = []

    def terminal(self) -> bool:
        return self._spec.process.terminal

    def create(self, stdio: Descriptors | None) -> Started:
        self._rootfs.mkdir(parents=True, exist_ok=True)
        self._mount()
        self._write_config()
        self._created = True
        started = self._spawn(["create", "--bundle", str(self._bundle)], stdio)
        self._pid = started.pid
        self._pidfd = os.dup(started.pidfd)
        if self._request.endpoints is not None:
            plug(started.pid, self._request.endpoints, self._request.broker)
        return started

    def start(self) -> None:
        self._run(["start"])

    def exec(self, process: spec.Process, stdio: Descriptors | None) -> Started:
        document = _process_document(process)
        with self._root() as root:
            _number_user(document, process.user, root)
        path = self._bundle / "process.json"
        path.write_bytes(orjson.dumps(document))
        try:
            return self._spawn(["exec", "--detach", "--process", str(path)], stdio)
        finally:
            path.unlink()

    def signal(self, number: int, *, everyone: bool) -> None:
        if everyone:
            self._cgroup.signal_all(number)
        else:
            self._run(["kill"], str(number))

    def kill_all(self) -> None:
        self._cgroup.kill_all()

    def pause(self) -> None:
        self._run(["pause"])

    def resume(self) -> None:
        self._run(["resume"])

    def update(self, resources: spec.Resources) -> None:
        self._cgroup.apply(resources)

    def stats(self) -> dict[str, Any]:
        plugged = self._request.endpoints is not None
        return {
            "cgroup": self._cgroup.stats(),
            "interfaces": interface_counters(self._pid) if plugged else [],
        }

    def oom_kill_count(self) -> int:
        return self._cgroup.oom_kill_count()

    def watch_oom(self) -> OOMWatch | None:
        return self._cgroup.watch_oom()

    def delete(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        try:
            if self._created:
                self._run(["delete", "--force"])
        finally:
            with contextlib.suppress(OSError):
                syscalls.umount(str(self._rootfs), 2)  # MNT_DETACH
            with contextlib.suppress(OSError):
                self._rootfs.rmdir()
                state.remove(self._bundle)

    def _user_namespace(self, mount: spec.Mount) -> int:
        fd = namespaces.mapped_userns(mount.uid_mappings, mount.gid_mappings)
        self._user_namespaces.append(fd)
        return fd

    def _mount(self) -> None:
        """Mount the root file system where only this process and the command see it."""
        if not self._request.rootfs_mounts:
            self._rootfs.rmdir()
            self._rootfs.symlink_to(self._request.bundle / self._spec.root.path)
            return
        try:
            syscalls.unshare(_CLONE_NEWNS)
            with self._opened("/") as root:
                syscalls.mount_setattr(root, propagation=syscalls.MS_SLAVE, recursive=True)
            for mount in self._request.rootfs_mounts:
                operation = mounts.plan(mount, str(self._request.bundle), self._user_namespace)
                with self._opened(str(self._rootfs)) as target:
                    if mount.destination.strip("/"):
                        mounts.attach(operation, Root(target))
                        continue
                    syscalls.move_mount(operation.tree, target)
                    os.close(operation.tree)
        except OSError as e:
            raise RuntimeFailure.from_os("mount", e) from e
        finally:
            while self._user_namespaces:
                os.close(self._user_namespaces.pop())

    def _write_config(self) -> None:
        document = self._document
        process = document.setdefault("process", {})
        with self._root() as root:
            _number_user(process, self._spec.process.user, root)
        # The shim's own score would be inherited.
        process.setdefault("oomScoreAdj", 0)
        document["root"] = {**document.get("root", {}), "path": str(self._rootfs)}
        document.setdefault("linux", {})["cgroupsPath"] = self._cgroup_path
        (self._bundle / "config.json").write_bytes(orjson.dumps(document))

    def _spawn(self, arguments: list[str], stdio: Descriptors | None) -> Started:
        """Run a command that leaves a process behind, which becomes this subreaper's child."""
        pid_file = self._bundle / "pid"
        arguments = [*arguments, "--pid-file", str(pid_file)]
        console = None
        with ExitStack() as stack:
            if stdio is None:
                listener = stack.enter_context(self._console_socket())
                arguments += ["--console-socket", listener.getsockname()]
            self._run(arguments, stdio=stdio)
            if stdio is None:
                console = _receive_console(listener)
            pid = int(pid_file.read_text())
        pid_file.unlink()
        return Started(pid, os.pidfd_open(pid), console)

    def _run(self, arguments: list[str], *operands: str, stdio: Descriptors | None = None) -> None:
        log = self._bundle / "log"
        path, *options = self._runtime
        command = [path, *options, "--root", str(self._request.state_root)]
        command += ["--log", str(log), "--log-format", "json"]
        command += [*arguments, self._id, *operands]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            status = spawn.run(
                command, stdio or (null, null, null), seconds=COMMAND_SECONDS, env=os.environ
            )
        finally:
            os.close(null)
        if status != 0:
            text = _last_error(log) or f"{path} {arguments[0]}: exit status {status}"
            raise _failure(arguments[0], text.rpartition(_PREFIX)[2])

    @contextmanager
    def _console_socket(self) -> Iterator[socket.socket]:
        # sun_path is short, and the bundle's path may be long.
        with self._opened(str(self._bundle)) as directory:
            path = f"/proc/{os.getpid()}/fd/{directory}/console"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(path)
                listener.listen(1)
                try:
                    yield listener
                finally:
                    os.unlink(path)

    @contextmanager
    def _root(self) -> Iterator[Root]:
        with self._opened(os.path.realpath(self._rootfs)) as fd:
            yield Root(fd, outside=True)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def _number_user(process: dict[str, Any], user: spec.User, root: Root) -> None:
    """Put numbers where the document has names that only the container's files explain."""
    if user.username is None:
        return
    identity = users.resolve(user, root)
    document = process.setdefault("user", {})
    document.update(uid=identity.uid, gid=identity.gid, additionalGids=list(identity.groups))
    document.pop("username", None)
    document.pop("additionalGroups", None)


def _process_document(process: spec.Process) -> dict[str, Any]:
    """An OCI process object of what ``spec.parse_process`` read."""
    document: dict[str, Any] = {
        "args": process.args,
        "cwd": process.cwd,
        "env": process.env,
        "terminal": process.terminal,
        "user": {"uid": process.user.uid, "gid": process.user.gid},
        "noNewPrivileges": process.no_new_privileges,
        "oomScoreAdj": process.oom_score_adj or 0,
        "rlimits": [asdict(each) for each in process.rlimits],
    }
    if process.user.additional_gids:
        document["user"]["additionalGids"] = process.user.additional_gids
    if process.user.umask is not None:
        document["user"]["umask"] = process.user.umask
    if process.capabilities is not None:
        document["capabilities"] = asdict(process.capabilities)
    if process.console_size is not None:
        document["consoleSize"] = asdict(process.console_size)
    if process.apparmor_profile:
        document["apparmorProfile"] = process.apparmor_profile
    if process.selinux_label:
        document["selinuxLabel"] = process.selinux_label
    return document


def _receive_console(listener: socket.socket) -> int:
    """The terminal's master, which the command sends as runc does (docs/terminals.md of runc)."""
    if not select.select([listener], [], [], CONSOLE_SECONDS)[0]:
        raise RuntimeFailure("console", "the runtime sent no terminal")
    connection, _ = listener.accept()
    with connection:
        space = socket.CMSG_SPACE(4)
        fds = descriptors(connection.recvmsg(4096, space, MSG_CMSG_CLOEXEC)[1])
    if len(fds) != 1:
        raise RuntimeFailure("console", "the runtime sent no terminal")
    return fds[0]


def _failure(step: str, message: str) -> RuntimeFailure:
    """The same error that the native runtime raises where the program is what is wrong."""
    if 'exec: "' in message:
        for text, number in _PROGRAM_ERRORS.items():
            if message.endswith(text):
                return RuntimeFailure("exec", message, errno=number)
    return RuntimeFailure(step, message)


def _last_error(log: Path) -> str:
    """The text of the last error in the command's JSON log, which is removed."""
    text = ""
    with contextlib.suppress(OSError):
        for line in log.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                entry = orjson.loads(line)
                if entry.get("level") == "error":
                    text = str(entry.get("msg", ""))
        log.unlink()
    return text
