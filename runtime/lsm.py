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


BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV


@dataclass(frozen=True, slots=True)
class Write:
    path: str  # in a procfs
    text: bytes
    what: str  # failed, if it does

    def failure(self, error: OSError) -> RuntimeFailure:
        return RuntimeFailure.from_os("lsm", error, f"{self.what}: write /proc/{self.path}")


def writes(labels: Labels) -> list[Write]:
    wanted = []
    if labels.apparmor:
        text = f"exec {labels.apparmor}".encode()
        what = "unable to apply apparmor profile: apparmor failed to apply profile"
        wanted.append(Write("thread-self/attr/apparmor/exec", text, what))
    if labels.selinux:
        text = labels.selinux.encode()
        wanted.append(Write("thread-self/attr/exec", text, "can't set process label"))
    return wanted


def apply(labels: Labels, procfs: int) -> None:
    for write in writes(labels):
        try:
            fd = syscalls.openat2(procfs, write.path, os.O_WRONLY, resolve=BENEATH)
            os.write(fd, write.text)
            os.close(fd)
        except OSError as error:
            raise write.failure(error) from error
