"""Library: what in a config.json can be refused before anything is made.

Called by create() in the parent. The types were checked by the parser; here are the values, and
what contradicts the namespaces that the container has.
"""

from __future__ import annotations

import re

from runtime import procfs
from runtime.errors import RuntimeFailure
from runtime.mountoptions import PROPAGATION
from runtime.namespaces import Plan, check_mappings
from runtime.program import PERSONALITIES
from runtime.rootfs import TYPE_BITS
from runtime.spec import Device, Spec, User

OCI_VERSION = "1.3.0"
MAX_ID = 0xFFFFFFFF
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(-.+)?")


def refuse(text: str) -> RuntimeFailure:
    return RuntimeFailure("config", text)


def check(spec: Spec, namespaces: Plan) -> None:
    version = VERSION.fullmatch(spec.oci_version)
    if version is None or version[1] != "1":
        raise refuse(f"unsupported ociVersion: {spec.oci_version!r}")
    check_user(spec.process.user)
    _check_namespaces(spec, namespaces)
    for device in spec.linux.devices:
        _check_device(device)
    for mount in spec.mounts:
        if not mount.destination:
            raise refuse("mount destination is empty")
    if spec.linux.rootfs_propagation and spec.linux.rootfs_propagation not in PROPAGATION:
        raise refuse(f"rootfsPropagation={spec.linux.rootfs_propagation} is not supported")
    personality = spec.linux.personality
    if personality and (personality.domain not in PERSONALITIES or personality.flags):
        raise refuse(f"invalid personality: {personality.domain} {personality.flags}")
    if spec.linux.mount_label:
        raise refuse("mountLabel is specified in config, but selinux is disabled or not supported")


def check_user(user: User) -> None:
    # The highest number means "leave unchanged" to setresuid(2), so the process would stay root.
    for number in (user.uid, user.gid, *user.additional_gids):
        if not 0 <= number < MAX_ID:
            raise refuse(f"uid or gid out of range: {number}")


def _check_namespaces(spec: Spec, namespaces: Plan) -> None:
    linux, private = spec.linux, namespaces.private
    if "mount" not in private:
        raise refuse("a mount namespace of the container's own is required")
    if (spec.hostname or spec.domainname) and "uts" not in private:
        raise refuse("unable to set hostname without a private UTS namespace")
    check_mappings(linux.uid_mappings, "uidMappings")
    check_mappings(linux.gid_mappings, "gidMappings")
    if "user" in namespaces.new and not (linux.uid_mappings and linux.gid_mappings):
        raise refuse("user namespaces enabled, but no uid or gid mappings found")
    if "user" not in private and (linux.uid_mappings or linux.gid_mappings):
        raise refuse("userns mappings are configured, but the user namespace is not enabled")
    if linux.time_offsets and "time" not in namespaces.new:
        raise refuse(
            "time namespace offsets specified, but time namespace isn't enabled in the config"
        )
    for clock in linux.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise refuse(f"invalid time offset: {clock}")
    for key, value in linux.sysctl.items():
        procfs.check_sysctl(key, value, private)


def _check_device(device: Device) -> None:
    if device.type not in TYPE_BITS:
        raise refuse(f"invalid device type {device.type!r} of {device.path}")
    if not device.path.startswith("/"):
        raise refuse(f"device path must be absolute: {device.path!r}")
    if not (0 <= device.major < 1 << 12 and 0 <= device.minor < 1 << 20):
        raise refuse(f"invalid device number {device.major}:{device.minor} of {device.path}")
    check_user(User(uid=device.uid or 0, gid=device.gid or 0))
