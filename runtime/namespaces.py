"""Library: which namespaces a container makes, joins or shares, and its id mappings.

The plan is made in the parent, which also opens and checks the namespaces to be joined and writes
the mappings. PID and user namespaces come with the clone (a PID namespace must belong to the user
namespace for /proc to be mountable in it); the others are unshared by the child, because the
cgroup namespace must be made after joining the cgroup, and a joined user namespace must own them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from runtime import children, syscalls
from runtime.errors import RuntimeFailure
from runtime.spec import IDMapping, Namespace, TimeOffset

# OCI's name: (CLONE_NEW*, the name in /proc/<pid>/ns). In the order of joining: the user namespace
# gives the capabilities for the others, the mount namespace takes /proc away.
TYPES: dict[str, tuple[int, str]] = {
    "user": (syscalls.CLONE_NEWUSER, "user"),
    "pid": (syscalls.CLONE_NEWPID, "pid"),
    "ipc": (syscalls.CLONE_NEWIPC, "ipc"),
    "uts": (syscalls.CLONE_NEWUTS, "uts"),
    "network": (syscalls.CLONE_NEWNET, "net"),
    "cgroup": (syscalls.CLONE_NEWCGROUP, "cgroup"),
    "time": (syscalls.CLONE_NEWTIME, "time"),
    "mount": (syscalls.CLONE_NEWNS, "mnt"),
}
WITH_CLONE = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUSER
NSFS_MAGIC = 0x6E736673  # linux/magic.h
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914  # linux/sockios.h
IFF_UP = 1
MAX_MAPPINGS = 340  # user_namespaces(7)


@dataclass(frozen=True, slots=True)
class Plan:
    new: frozenset[str]
    joined: tuple[tuple[str, int], ...]  # (type, descriptor), in the order of joining

    @property
    def private(self) -> frozenset[str]:
        """Types that are not the runtime's own."""
        return self.new | {kind for kind, _ in self.joined}

    def joined_fd(self, kind: str) -> int | None:
        return next((fd for each, fd in self.joined if each == kind), None)

    @property
    def clone_flags(self) -> int:
        """For the first clone. A new PID namespace below a joined user namespace needs another."""
        wanted = flags(self.new) & WITH_CLONE
        return wanted & ~syscalls.CLONE_NEWPID if self.forks_twice else wanted

    @property
    def forks_twice(self) -> bool:
        return "pid" in self.new and self.joined_fd("user") is not None

    def unshare_flags(self, made: frozenset[str]) -> int:
        return flags(self.new - made) & ~WITH_CLONE


def flags(kinds: Iterable[str]) -> int:
    found = 0
    for kind in kinds:
        found |= TYPES[kind][0]
    return found


def plan(namespaces: Iterable[Namespace], opened: list[int]) -> Plan:
    """Descriptors go to ``opened`` as they are made; the caller closes them."""
    new: set[str] = set()
    joined: dict[str, int] = {}
    for namespace in namespaces:
        kind = namespace.type
        if kind not in TYPES:
            raise RuntimeFailure("config", f'unknown namespace "{kind}"')
        if kind in new or kind in joined:
            raise RuntimeFailure("config", f'malformed spec file: duplicated ns "{kind}"')
        if not namespace.path:
            new.add(kind)
            continue
        fd = open_namespace(kind, namespace.path)
        opened.append(fd)
        if not _is_ours(fd, kind):
            joined[kind] = fd
    return Plan(frozenset(new), tuple((kind, joined[kind]) for kind in TYPES if kind in joined))


def open_namespace(kind: str, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RuntimeFailure.from_os("namespace", error, f"lstat {path}") from error
    try:
        if syscalls.fstatfs_type(fd) != NSFS_MAGIC:
            raise RuntimeFailure("namespace", f"{path} is not a namespace", path=path)
        if fcntl.ioctl(fd, NS_GET_NSTYPE) != TYPES[kind][0]:
            raise RuntimeFailure("namespace", f"{path} is not a {kind} namespace", path=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_ours(fd: int, kind: str) -> bool:
    """Joining our own namespace is nothing, or for user namespaces an error."""
    ours = os.stat(f"/proc/self/ns/{TYPES[kind][1]}")
    return os.path.samestat(os.fstat(fd), ours)


def check_mappings(mappings: tuple[IDMapping, ...], what: str) -> None:
    if len(mappings) > MAX_MAPPINGS:
        raise RuntimeFailure("config", f"too many {what}: {len(mappings)}")
    for each in mappings:
        if min(each.container_id, each.host_id) < 0 or each.size < 1:
            raise RuntimeFailure("config", f"invalid entry in {what}: {each}")


def write_mappings(pid: int, uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> None:
    for name, mappings in (("gid_map", gids), ("uid_map", uids)):
        lines = [f"{each.container_id} {each.host_id} {each.size}\n" for each in mappings]
        try:
            # One write: the kernel takes a map as a whole or not at all.
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(lines).encode())
            finally:
                os.close(fd)
        except OSError as error:
            what = f"failed to update /proc/{pid}/{name}"
            raise RuntimeFailure.from_os("mappings", error, what) from error


def write_time_offsets(pid: int, offsets: Mapping[str, TimeOffset]) -> None:
    lines = [f"{clock} {each.secs} {each.nanosecs}\n" for clock, each in offsets.items()]
    try:
        with open(f"/proc/{pid}/timens_offsets", "wb", buffering=0) as file:
            file.write("".join(lines).encode())
    except OSError as error:
        what = f"failed to update /proc/{pid}/timens_offsets"
        raise RuntimeFailure.from_os("namespace", error, what) from error


@contextmanager
def children_in_pid_namespace(fd: int | None) -> Iterator[None]:
    """Clones land in that PID namespace; None for our own. A child must not leave the block."""
    if fd is None:
        yield
        return
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWPID)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)


@contextmanager
def other_mounts(enter: Callable[[], None]) -> Iterator[None]:
    """The calling thread in the mount namespace that ``enter`` takes it to; afterwards in its own.

    What entering changes besides, the root and the working directory, is then the same again.
    """
    with ExitStack() as opened:
        own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, own)
        cwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, cwd)
        enter()
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNS)
            os.fchdir(cwd)


@contextmanager
def private_mounts() -> Iterator[None]:
    """The calling thread in a copy of its mount namespace that nobody else sees.

    The way back wants a thread that shares its root with no other: unshare sees to that too.
    """
    with other_mounts(lambda: syscalls.unshare(syscalls.CLONE_NEWNS)):
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.mount_setattr(root, propagation=syscalls.MS_PRIVATE, recursive=True)
            yield
        finally:
            os.close(root)


def mapped_userns(uids: tuple[IDMapping, ...], gids: tuple[IDMapping, ...]) -> int:
    """A user namespace with these mappings, for idmapped mounts; its process is gone again."""
    pid, pidfd = syscalls.clone(syscalls.CLONE_NEWUSER)
    if pid == 0:
        while True:
            signal.pause()
    try:
        write_mappings(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        children.end(pidfd)


def raise_loopback() -> None:
    """Child: as every runtime does in a network namespace of the container's own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
