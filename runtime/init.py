"""The child side of create, from the clone to the container's program.

Runs once per container in a process that the shim or ``longshore-runtime`` cloned. What it does is
the list ``STEPS``; each step says why it stands where it does. Whatever goes wrong is sent to the
parent as one RuntimeFailure, and the process ends with os._exit: nothing returns into the parent's
code. From ``forbid_imports`` on no Python module may be loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from runtime import (
    cgroupmount,
    console,
    hooks,
    mountoptions,
    mounts,
    namespaces,
    procfs,
    program,
    rootfs,
    syscalls,
    users,
)
from runtime.cgroupmount import CgroupV1
from runtime.cgroups import join_self
from runtime.channel import Channel
from runtime.errors import INIT_PREFIX, RuntimeFailure
from runtime.mounts import Operation
from runtime.program import Program
from runtime.rootfs import Node
from runtime.rootpath import Root
from runtime.spec import Spec


@dataclass(slots=True)
class Plan:
    """All that the child needs, made by the parent; descriptors are inherited."""

    spec: Spec
    container_id: str
    bundle: str
    program: Program
    namespaces: namespaces.Plan
    rootfs: str
    root_tree: int
    operations: tuple[Operation | CgroupV1, ...]
    nodes: tuple[Node, ...]
    null_tree: int
    cgroup_fds: list[int]  # v1; on v2 the clone is born in its cgroup
    cgroup_clone_fd: int | None
    stdio: tuple[int, int, int] | None
    procfs: int
    no_pivot: bool
    fifo: int  # -1: "start" comes over the channel
    keep: list[int] = field(default_factory=list)  # all of the above, for close_range

    @property
    def waits_for_hooks(self) -> bool:
        """Also for its own hooks, as the parent's answer says which pid this is outside."""
        given = self.spec.hooks
        parents = given.prestart or given.create_runtime
        return bool(parents or given.create_container or given.start_container)


@dataclass(slots=True)
class Child:
    plan: Plan
    channel: Channel
    root: Root
    made: frozenset[str] | None = None  # of an init that does its own preparation (inside.py)
    pid: int = 0  # as the runtime sees it
    identity: users.Identity | None = None
    image: program.Image | None = None
    master: int = -1
    terminal: int = -1


def run(plan: Plan, channel: Channel, made: frozenset[str] | None = None) -> NoReturn:
    child = Child(plan, channel, Root(plan.root_tree), made=made)
    step = "start"
    try:
        for function in STEPS:
            step = function.__name__
            function(child)
    except RuntimeFailure as failure:
        _report(channel, failure)
    except OSError as error:
        _report(channel, RuntimeFailure.from_os(step, error))
    except BaseException as error:
        _report(channel, RuntimeFailure(step, f"{type(error).__name__}: {error}"))
    finally:
        os._exit(1)


def _report(channel: Channel, failure: RuntimeFailure) -> None:
    if failure.step != "user":  # Docker finds users itself, so its text has no prefix
        failure.in_init()
    try:
        channel.fail(failure)
    except OSError:
        # Nobody reads any more: "start" by another process. runc also says it on stderr.
        os.write(2, f"{failure.message.removeprefix(INIT_PREFIX)}\n".encode())


def detach(child: Child) -> None:
    """First, so that no descriptor of the shim's other work is ever seen in the container."""
    plan = child.plan
    keep = [*plan.keep, child.channel.socket.fileno()]
    keep += plan.stdio or ()
    keep += range(3, 3 + plan.program.preserve_fds)
    if child.made is not None:  # it has left its parent already
        program.close_all_but(keep)
        return
    program.detach_from_parent(keep, die_with_parent=True)


def cgroup(child: Child) -> None:
    """Before any namespace: the cgroup namespace is rooted where its creator is."""
    join_self(child.plan.cgroup_fds)


def join_namespaces(child: Child) -> None:
    """Before making new ones: a joined user namespace owns what is made in it."""
    for kind, fd in child.plan.namespaces.joined:
        if kind == "pid":
            continue  # the parent arranged that our clone landed in it
        flag = namespaces.TYPES[kind][0]
        syscalls.setns(fd, flag)
        os.close(fd)
    if child.plan.namespaces.joined_fd("user") is not None:
        _become_namespace_root()
    if child.plan.namespaces.forks_twice:
        _fork_again(child)


def _fork_again(child: Child) -> None:
    """A PID namespace is for children only; ours becomes its init, with our parent as its own."""
    pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID | syscalls.CLONE_PARENT)
    if pid:
        child.channel.send("forked", (pidfd,), pid=pid)
        os._exit(0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()


def user_namespace(child: Child) -> None:
    """The parent, root outside, has to write the mappings before we are anybody in it."""
    if "user" not in child.plan.namespaces.new:
        return
    child.channel.expect("mapped")
    _become_namespace_root()


def _become_namespace_root() -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    # A change of credentials clears both.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def new_namespaces(child: Child) -> None:
    """From here on the parent sets up the network while we mount."""
    if flags := child.plan.namespaces.unshare_flags(child.made or frozenset()):
        syscalls.unshare(flags)
    if child.made is not None:
        return
    if "network" in child.plan.namespaces.new:
        namespaces.raise_loopback()
    child.channel.send("namespaces")


def isolate_mounts(child: Child) -> None:
    """Before the first mount, or the host would see it."""
    host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.mount_setattr(host, propagation=syscalls.MS_SLAVE, recursive=True)
    os.close(host)
    # Hooks look for it below the bundle. Else no directory becomes a mount point, whose removal
    # would take the kernel milliseconds.
    for_hooks = child.plan.waits_for_hooks and not child.plan.no_pivot
    rootfs.attach_root(child.plan.root_tree, child.plan.rootfs if for_hooks else "/")


def make_mounts(child: Child) -> None:
    os.umask(0)
    for operation in child.plan.operations:
        if isinstance(operation, CgroupV1):
            cgroupmount.attach(operation, child.root)
        else:
            mounts.attach(operation, child.root)


def devices(child: Child) -> None:
    """After the mounts, since /dev is usually a tmpfs; not on a /dev bound from the host."""
    if not child.plan.nodes:
        return
    rootfs.make_devices(child.root, child.plan.nodes)
    rootfs.make_links(child.root)
    os.umask(0o022)


def make_console(child: Child) -> None:
    """Before the masks: /dev/console is one of the paths that may be asked for."""
    if not child.plan.program.process.terminal:
        return
    size = child.plan.program.process.console_size
    child.master, child.terminal = console.open_pair(child.root, size)
    console.mount_on_dev_console(child.root, child.terminal)


def make_cwd(child: Child) -> None:
    """As root and while the root can be written, as Docker's users expect of WORKDIR."""
    cwd = child.plan.program.process.cwd
    try:
        os.close(child.root.make_directory(cwd))
    except FileExistsError:
        pass  # through links that only resolve inside; chdir will say
    except OSError as error:
        raise RuntimeFailure.from_os("mkdir", error, f"mkdir {cwd}") from error


def runtime_hooks(child: Child) -> None:
    """Namespaces and mounts exist, pivot_root has not happened (config.md, createRuntime)."""
    if child.plan.waits_for_hooks:
        child.channel.send("mounted")
        child.pid = child.channel.expect("hooked").fields["pid"]
    run_hooks(child, "createContainer", "creating")


def run_hooks(child: Child, name: str, status: str) -> None:
    given = child.plan.spec.hooks
    wanted = given.create_container if name == "createContainer" else given.start_container
    if wanted:
        spec = child.plan.spec
        state = hooks.state_json(
            oci_version=spec.oci_version,
            container_id=child.plan.container_id,
            status=status,
            pid=child.pid,
            bundle=child.plan.bundle,
            annotations=dict(spec.annotations),
        )
        hooks.run_all(name, wanted, state)


def enter_root(child: Child) -> None:
    if child.plan.no_pivot:
        rootfs.move_to_root(child.plan.root_tree)
    else:
        rootfs.pivot(child.plan.root_tree)
    program.forbid_imports()


def names(child: Child) -> None:
    """Only with a UTS namespace of its own, which the parent has checked."""
    if child.plan.spec.hostname:
        syscalls.sethostname(child.plan.spec.hostname)
    if child.plan.spec.domainname:
        syscalls.setdomainname(child.plan.spec.domainname)


def protect_paths(child: Child) -> None:
    """After all mounts and hooks, so that nothing is put over the masks."""
    linux = child.plan.spec.linux
    for path in linux.readonly_paths:
        rootfs.make_readonly(child.root, path)
    masks = rootfs.Masks(child.plan.null_tree)
    for path in linux.masked_paths:
        masks.cover(child.root, path)
    propagation = mountoptions.PROPAGATION.get(linux.rootfs_propagation)
    if propagation is not None:
        value, recursive = propagation
        syscalls.mount_setattr(child.root.fd, propagation=value, recursive=recursive)
    if child.plan.spec.root.readonly:
        syscalls.mount_setattr(child.root.fd, set_=syscalls.MOUNT_ATTR_RDONLY)


def stdio(child: Child) -> None:
    if child.terminal >= 0:
        program.connect_stdio((child.terminal,) * 3)
        os.close(child.terminal)
        console.control(0)
    elif child.plan.stdio is not None:
        program.connect_stdio(child.plan.stdio)


def network(child: Child) -> None:
    """Sysctls may be about an interface, so wait for the parent here and not earlier."""
    if child.made is None:
        child.channel.expect("network")
    for key, value in child.plan.spec.linux.sysctl.items():
        procfs.write_sysctl(child.plan.procfs, key, value)


def user(child: Child) -> None:
    """Looked up with all mounts in place, since /etc/passwd may be one of them."""
    child.identity = users.resolve(child.plan.program.process.user, child.root)


def restrict(child: Child) -> None:
    """Without no_new_privs the seccomp filter needs CAP_SYS_ADMIN, so it precedes the user."""
    prepared = child.plan.program
    identity = child.identity
    assert identity is not None
    syscalls.join_session_keyring()
    personality = child.plan.spec.linux.personality
    if personality is not None:
        syscalls.personality(program.PERSONALITIES[personality.domain])
    listener = program.restrict(prepared, identity, child.plan.procfs)
    program.offer_listener(child.channel, listener)
    program.change_user(prepared, identity)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def find(child: Child) -> None:
    """As the container's user, with its PATH: "not found" is an error of create."""
    process = child.plan.program.process
    assert child.identity is not None
    variables = program.environment(process, child.identity.home)
    child.image = program.image(process, variables)


def wait_for_start(child: Child) -> None:
    fifo = child.plan.fifo
    if fifo >= 0:
        # The runtime's command ends now, and its death must not be ours.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    fds = (child.master,) if child.master >= 0 else ()
    child.channel.send("ready", fds)
    if child.master >= 0:
        os.close(child.master)
    if fifo >= 0:
        os.read(fifo, 1)
        return
    message = child.channel.receive()
    if message is None or message.kind != "start":
        os._exit(1)  # the runtime is gone


def execute(child: Child) -> None:
    assert child.image is not None
    if child.plan.spec.hooks.start_container:
        run_hooks(child, "startContainer", "created")
    if child.plan.fifo < 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    # Of these two, the one in use is the last to close: by execve, which tells the other side.
    error_fd = child.plan.fifo if child.plan.fifo >= 0 else child.channel.socket.fileno()
    program.execute(child.plan.program, child.image, error_fd)


STEPS: tuple[Callable[[Child], None], ...] = (
    detach,
    cgroup,
    join_namespaces,
    user_namespace,
    new_namespaces,
    isolate_mounts,
    make_mounts,
    devices,
    make_console,
    make_cwd,
    runtime_hooks,
    enter_root,
    names,
    protect_paths,
    stdio,
    network,
    user,
    restrict,
    find,
    wait_for_start,
    execute,
)
