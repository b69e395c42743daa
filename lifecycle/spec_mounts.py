"""Library of lifecycle: the OCI mounts of a container, in the order in which they are made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lifecycle._pb import containers_pb2 as pb
from lifecycle.init_program import PATH_INSIDE

if TYPE_CHECKING:
    from lifecycle.spec import Surroundings

Json = dict[str, Any]

_NO_PRIVILEGE = ["nosuid", "noexec", "nodev"]
# Options that name a propagation, from Docker's bind syntax.
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def build(host: pb.HostConfig, around: Surroundings) -> list[Json]:
    """The kernel's filesystems, then everything else; a later mount may lie below an earlier one.

    What the user mounts at a place of the kernel's filesystems replaces it.
    """
    theirs = {mount["destination"] for mount in around.mounts}
    mounts = [mount for mount in _kernel(host, around) if mount["destination"] not in theirs]
    rest = list(around.mounts)
    mappings = around.remap.mappings if around.remap else {}
    rest += [
        {**_file(path, source), **mappings}
        for path, source in around.files.items()
        if path not in theirs
    ]
    if around.init_path:
        rest.append(_file(PATH_INSIDE, around.init_path, read_only=True))
    return mounts + sorted(rest, key=_depth)


def _depth(mount: Json) -> int:
    return len([part for part in mount["destination"].split("/") if part])


def _kernel(host: pb.HostConfig, around: Surroundings) -> Iterable[Json]:
    system = "rw" if host.privileged else "ro"
    yield _mount("/proc", "proc", "proc", _NO_PRIVILEGE)
    yield _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"])
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    yield _mount("/dev/pts", "devpts", "devpts", terminals)
    yield _mount("/sys", "sysfs", "sysfs", [*_NO_PRIVILEGE, system])
    cgroups = "rw" if around.writable_cgroups else "ro"
    yield _mount("/sys/fs/cgroup", "cgroup", "cgroup", [cgroups, *_NO_PRIVILEGE])
    # Shows the queues of the IPC namespace, whichever it is, to who has rights in it.
    if around.remap is None or host.ipc_mode != "host":
        yield _mount("/dev/mqueue", "mqueue", "mqueue", _NO_PRIVILEGE)
    elif os.path.ismount("/dev/mqueue"):
        yield _bind("/dev/mqueue", "/dev/mqueue", ["rbind", *_NO_PRIVILEGE])
    if host.ipc_mode == "host":
        yield _bind("/dev/shm", "/dev/shm", ["rbind", *_NO_PRIVILEGE])
    elif around.shm_path:
        yield _bind("/dev/shm", around.shm_path, ["rbind", *_NO_PRIVILEGE])
    elif host.ipc_mode != "none":
        yield _mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            [*_NO_PRIVILEGE, "mode=1777", f"size={host.shm_size}"],
        )


def rootfs_propagation(mounts: Sequence[Json]) -> str:
    """What the container's root must be for the mounts' propagation to have a sense.

    A shared or slave bind needs a root that is not private; Docker chooses the same (moby
    daemon/oci_linux.go, withMounts).
    """
    options = {option for mount in mounts for option in mount.get("options", ())}
    if options & {"shared", "rshared"}:
        return "shared"
    if options & {"slave", "rslave"}:
        return "rslave"
    return ""


def _file(destination: str, source: str, *, read_only: bool = False) -> Json:
    options = ["rbind", "rprivate"] + (["ro"] if read_only else [])
    return _bind(destination, source, options)


def _bind(destination: str, source: str, options: Sequence[str]) -> Json:
    return _mount(destination, "bind", source, options)


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> Json:
    return {
        "destination": destination,
        "type": kind,
        "source": source,
        "options": list(options),
    }
