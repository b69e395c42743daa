"""The parent side of create and start; called by the shim and by ``longshore-runtime``.

``create`` makes the directory, the cgroup and the process, answers what the child side (init.py)
asks for, and undoes everything when anything fails. The callers are single-threaded: the clone
copies one thread. What the child inherits is opened by preparation.py and closed right after.
"""

from __future__ import annotations

import datetime
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime import children, hooks, idmaps, init, listener, namespaces, program, state, syscalls
from runtime.cgroups import CgroupError, Manager, with_default_devices
from runtime.cgroups import manager as cgroup_manager
from runtime.cgroups.files import WriteFailed
from runtime.channel import Channel, Message
from runtime.errors import INIT_PREFIX, RuntimeFailure
from runtime.preparation import Preparation
from runtime.spec import Mount, Spec
from runtime.state import FIFO, State

OnNamespaces = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Stdio:
    """What the process gets as 0, 1, 2; ignored with process.terminal."""

    stdin: int
    stdout: int
    stderr: int

    @property
    def fds(self) -> tuple[int, int, int]:
        return self.stdin, self.stdout, self.stderr


@dataclass(slots=True)
class InitProcess:
    """A created container's first process, waiting for ``start``."""

    pid: int
    pidfd: int  # owned by the caller
    console: int | None  # pty master with process.terminal, owned by the caller
    state: State
    spec: Spec
    channel: Channel | None  # None when detached: start() then goes through the fifo

    def close(self) -> None:
        """Give up what start() needs; an init that was not started dies of it."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None


def create(
    spec: Spec,
    *,
    container_id: str,
    bundle: Path,
    state_root: Path,
    stdio: Stdio | None = None,
    rootfs_mounts: Sequence[Mount] = (),
    seccomp_bpf: bytes | None = None,
    on_namespaces: OnNamespaces | None = None,
    detached: bool = False,
    preserve_fds: int = 0,
    no_pivot: bool = False,
) -> InitProcess:
    """Make the container up to, but without, the execution of its program.

    ``rootfs_mounts`` are made on root.path, before anything else and only in the container's mount
    namespace. ``on_namespaces`` is called here with init's pid as soon as its namespaces exist,
    while the child mounts; it sets up the network. ``detached`` lets init outlive this process.
    ``no_pivot`` is for hosts whose own root is an initramfs, where pivot_root is not possible.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    with one_exception("create"), ExitStack() as undo:
        directory = state.reserve(state_root, container_id)
        undo.callback(quietly, state.remove, directory)
        preparation = Preparation(spec, container_id, bundle, stdio.fds if stdio else None)
        undo.callback(preparation.close)
        preparation.join_namespaces()
        manager = make_cgroup(spec, container_id, undo)
        preparation.open(manager, rootfs_mounts, seccomp_bpf, preserve_fds)
        os.mkfifo(directory / FIFO, 0o600)
        plan = preparation.plan(
            fifo=_open_fifo(directory, preparation) if detached else -1, no_pivot=no_pivot
        )
        process = _Process(plan, manager, on_namespaces)
        undo.callback(quietly, process.abort)
        process.clone()
        preparation.close()
        write_oom_score(process.pid, spec.process.oom_score_adj)
        # Now, while the child is busy; its status is asked of the kernel and not stored.
        saved = save(plan, manager, process.pid, directory, str(bundle))
        process.serve_until_ready()
        if process.pid != saved.pid:
            saved = save(plan, manager, process.pid, directory, str(bundle))
        undo.pop_all()
    channel: Channel | None = process.channel
    if detached:
        process.channel.close()
        channel = None
    return InitProcess(process.pid, process.pidfd, process.console, saved, spec, channel)


def start(init_process: InitProcess) -> None:
    """Let init execute its program; returns when execve has succeeded."""
    channel = init_process.channel
    if channel is None:
        start_detached(init_process.state, init_process.spec)
        return
    try:
        os.unlink(Path(init_process.state.directory) / FIFO)
        channel.answer("start")
        message = channel.receive()
        while message is not None:
            message = channel.receive()
    finally:
        init_process.close()
    _poststart(init_process.state, init_process.spec)


def start_detached(saved: State, spec: Spec) -> None:
    """``start`` of a container that another process created."""
    fifo = Path(saved.directory) / FIFO
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RuntimeFailure("start", "cannot start an already running container") from error
    except OSError as error:  # ENXIO: nobody waits
        raise RuntimeFailure("start", "cannot start a container that has stopped") from error
    try:
        try:
            fifo.unlink()
        except FileNotFoundError as error:
            raise RuntimeFailure("start", "cannot start an already running container") from error
        os.write(fd, b"0")
        poller = select.poll()
        poller.register(fd, 0)
        poller.poll()  # POLLERR: the last reader is gone, by execve or by death
    finally:
        os.close(fd)
    _poststart(saved, spec)


def _poststart(saved: State, spec: Spec) -> None:
    if spec.hooks.poststart:
        hooks.run_all("poststart", spec.hooks.poststart, hook_state(saved, "running"))


def hook_state(saved: State, status: str) -> bytes:
    return hooks.state_json(
        oci_version=saved.oci_version,
        container_id=saved.id,
        status=status,
        pid=saved.pid,
        bundle=saved.bundle,
        annotations=dict(saved.annotations),
    )


LIMIT_PREFIX = f"{INIT_PREFIX}error setting cgroup config for procHooks process: "


def cgroup_path(spec: Spec, container_id: str) -> str:
    """As runc with the cgroupfs driver: a path from the hierarchies' roots, or the id."""
    return spec.linux.cgroups_path or f"/{container_id}"


def make_cgroup(spec: Spec, container_id: str, undo: ExitStack) -> Manager:
    try:
        manager = cgroup_manager(cgroup_path(spec, container_id))
        manager.create()
        undo.callback(quietly, manager.delete)
    except CgroupError as error:
        raise RuntimeFailure("cgroup", f"unable to apply cgroup configuration: {error}") from error
    except OSError as error:
        what = "unable to apply cgroup configuration"
        raise RuntimeFailure.from_os("cgroup", error, what) from error
    _limit(manager, spec)
    return manager


def _limit(manager: Manager, spec: Spec) -> None:
    try:
        manager.apply(with_default_devices(spec.linux.resources))
    except CgroupError as error:
        raise RuntimeFailure("cgroup", f"{LIMIT_PREFIX}{error}") from error
    except WriteFailed as error:
        what = f'{LIMIT_PREFIX}failed to write "{error.value}": write {error.filename}'
        raise RuntimeFailure.from_os("cgroup", error, what) from error
    except OSError as error:
        what = "unable to apply cgroup configuration"
        raise RuntimeFailure.from_os("cgroup", error, what) from error


def _open_fifo(directory: Path, preparation: Preparation) -> int:
    """For both ways: the child's read then blocks until start, and never sees a hangup."""
    return preparation.own(os.open(directory / FIFO, os.O_RDWR | os.O_CLOEXEC))


@contextmanager
def one_exception(step: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RuntimeFailure.from_os(step, error) from error


def quietly(undo: Callable[..., object], *arguments: object) -> None:
    """What fails while undoing must not hide what made us undo."""
    with suppress(OSError, CgroupError):
        undo(*arguments)


def write_oom_score(pid: int | str, wanted: int | None) -> None:
    """The shim protects itself with a negative score, which its container must not inherit."""
    if wanted is None:
        with open("/proc/self/oom_score_adj", "rb") as file:
            if int(file.read()) >= 0:
                return
        wanted = 0
    try:
        with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"%d" % wanted)
    except ProcessLookupError:
        pass  # it has failed already, and its own message says more
    except OSError as error:
        what = f"failed to set oom_score_adj to {wanted}"
        raise RuntimeFailure.from_os("oom", error, INIT_PREFIX + what) from error


def save(plan: init.Plan, manager: Manager, pid: int, directory: Path, bundle: str) -> State:
    found = state.stat_fields(pid)
    if found is None:
        raise RuntimeFailure("state", "container init died")
    now = datetime.datetime.now(datetime.UTC)
    saved = State(
        oci_version=plan.spec.oci_version,
        id=plan.container_id,
        pid=pid,
        start_time=found[1],
        boot_id=state.boot_id(),
        bundle=bundle,
        rootfs=plan.rootfs,
        created=now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        cgroup_path=manager.path,
        cgroup_paths=manager.paths,
        namespaces=tuple(sorted(plan.namespaces.private)),
        annotations=plan.spec.annotations,
        oom_score_adj=plan.spec.process.oom_score_adj,
        directory=str(directory),
    )
    state.save(saved)
    return saved


def death(pidfd: int, manager: Manager) -> RuntimeFailure:
    """Why init closed the channel without a word."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    if manager.oom_kill_count():
        text = "container init was OOM-killed (memory limit too low?)"
    elif result is not None and result.si_code != os.CLD_EXITED:
        text = f"container init was killed by signal {result.si_status}"
    else:
        text = "container init ended before it was ready"
    return RuntimeFailure("init", INIT_PREFIX + text)


class _Process:
    """The clone and the conversation with it, until it is ready."""

    def __init__(
        self, plan: init.Plan, manager: Manager, on_namespaces: OnNamespaces | None
    ) -> None:
        self.plan = plan
        self.manager = manager
        self.on_namespaces = on_namespaces
        self.pid = 0
        self.pidfd = -1
        self.console: int | None = None
        self.channel, self._theirs = Channel.pair()

    def clone(self) -> None:
        joined = self.plan.namespaces.joined_fd("pid")
        try:
            with namespaces.children_in_pid_namespace(joined):
                cgroup_fd = self.plan.cgroup_clone_fd
                self.pid, self.pidfd = syscalls.clone(
                    self.plan.namespaces.clone_flags,
                    cgroup_fd=-1 if cgroup_fd is None else cgroup_fd,
                )
                if self.pid == 0:
                    init.run(self.plan, self._theirs)
        except OSError as error:
            raise RuntimeFailure.from_os("clone", error, "unable to start init") from error
        finally:
            self._theirs.close()
        linux = self.plan.spec.linux
        if "user" in self.plan.namespaces.new:
            namespaces.write_mappings(self.pid, linux.uid_mappings, linux.gid_mappings)
            self.channel.answer("mapped")

    def serve_until_ready(self) -> None:
        while True:
            message = self.channel.receive()
            if message is None:
                raise death(self.pidfd, self.manager)
            if message.kind == "ready":
                self.console = message.fds[0] if message.fds else None
                return
            self._serve(message)

    def _serve(self, message: Message) -> None:
        if message.kind == "forked":
            self._adopt(message)
        elif message.kind == "namespaces":
            if "user" in self.plan.namespaces.private:
                self._help_from_outside()
            if self.plan.spec.linux.time_offsets:
                namespaces.write_time_offsets(self.pid, self.plan.spec.linux.time_offsets)
            if self.on_namespaces is not None:
                self._set_up_network(self.on_namespaces)
            self.channel.answer("network")
        elif message.kind == "mounted":
            self._run_hooks()
            self.channel.answer("hooked", pid=self.pid)
        elif message.kind == "listener":
            profile = self.plan.spec.linux.seccomp
            document = self._document()
            listener.forward(self.channel, message, profile, document, self.pid, self.pidfd)

    def _help_from_outside(self) -> None:
        """What the root of a user namespace cannot do."""
        program.give_stdio(self.plan.stdio or (), idmaps.root_of(self.pid))
        program.raise_hard_limits(self.plan.program, self.pid)

    def _set_up_network(self, on_namespaces: OnNamespaces) -> None:
        try:
            on_namespaces(self.pid)
        except Exception:
            # If the child has failed meanwhile, its namespaces are gone, and its word is the cause.
            poller = select.poll()
            poller.register(self.channel.socket, select.POLLIN)
            if poller.poll(0):
                self.channel.receive()
            raise

    def _adopt(self, message: Message) -> None:
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        self.pid, (self.pidfd,) = message.fields["pid"], message.fds

    def _document(self) -> bytes:
        spec = self.plan.spec
        return hooks.state_json(
            oci_version=spec.oci_version,
            container_id=self.plan.container_id,
            status="creating",
            pid=self.pid,
            bundle=self.plan.bundle,
            annotations=dict(spec.annotations),
        )

    def _run_hooks(self) -> None:
        given = self.plan.spec.hooks
        hooks.run_all("prestart", given.prestart, self._document())
        hooks.run_all("createRuntime", given.create_runtime, self._document())

    def abort(self) -> None:
        if self.pidfd >= 0:
            children.end(self.pidfd)
        if self.console is not None:
            os.close(self.console)
        self.channel.close()
