"""Library: AppArmor profiles and SELinux labels of a process and its keyring.

``prepare`` runs in the parent and refuses what the kernel does not have. The child writes the
label for its next execve through a procfs of the runtime's own: the container's may be covered
(CVE-2019-16884, CVE-2025-52881).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from runtime import syscalls
from runtime.errors import RuntimeFailure
from runtime.spec import Process


@dataclass(frozen=True, slots=True)
class Labels:
    apparmor: str
    selinux: str

    def __bool__(self) -> bool:
        return bool(self.apparmor or self.selinux)


def apparmor_enabled() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except FileNotFoundError:
        return False


def selinux_enabled() -> bool:
    return os.path.exists("/sys/fs/selinux/enforce")


def prepare(process: Process) -> Labels:
    profile = process.apparmor_profile
    if profile == "unconfined" and not apparmor_enabled():
        profile = ""
    if profile and not apparmor_enabled():
        message = (
            f"apparmor: config has profile {profile!r} but AppArmor is not enabled on the host"
        )
        raise RuntimeFailure("apparmor", message)
    if process.selinux_label and not selinux_enabled():
        message = "selinux label is specified in config, but selinux is disabled or not supported"
        raise RuntimeFailure("selinux", message)
    return Labels(profile, process.selinux_label)


def apply(labels: Labels, procfs: int) -> None:
    for path, text, what in (
        (
            "thread-self/attr/apparmor/exec",
            f"exec {labels.apparmor}" if labels.apparmor else "",
            "unable to apply apparmor profile: apparmor failed to apply profile",
        ),
        ("thread-self/attr/exec", labels.selinux, "can't set process label"),
    ):
        if not text:
            continue
        try:
            resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV
            fd = syscalls.openat2(procfs, path, os.O_WRONLY, resolve=resolve)
            os.write(fd, text.encode())
            os.close(fd)
        except OSError as error:
            message = f"{what}: write /proc/{path}"
            raise RuntimeFailure.from_os("lsm", error, message) from error
