"""config.json: what parses into which values, and what is refused with which field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import mountoptions, procfs, spec, syscalls
from runtime.errors import RuntimeFailure
from runtime.jsonfields import InvalidSpec, camel
from runtime.scheduling import parse_cpus

MINIMAL: dict[str, Any] = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}}
DOTTED = syscalls.MOUNT_ATTR__ATIME


def parse(**fields: Any) -> spec.Spec:
    return spec.parse(json.dumps({**MINIMAL, **fields}).encode())


def test_defaults() -> None:
    parsed = parse()
    assert parsed.process.cwd == "/"
    assert parsed.linux.resources.memory is None
    assert parsed.linux.seccomp is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("no_new_privileges", "noNewPrivileges"),
        ("container_id", "containerID"),
        ("block_io", "blockIO"),
        ("io_priority", "ioPriority"),
        ("exec_cpu_affinity", "execCPUAffinity"),
        ("disable_oom_killer", "disableOOMKiller"),
        ("kernel_tcp", "kernelTCP"),
        ("throttle_read_iops_device", "throttleReadIOPSDevice"),
        ("throttle_read_bps_device", "throttleReadBpsDevice"),
        ("class_", "class"),
        ("oom_score_adj", "oomScoreAdj"),
    ],
)
def test_keys(name: str, key: str) -> None:
    assert camel(name) == key


def test_null_is_absent_and_unknown_keys_are_ignored() -> None:
    parsed = parse(process={"args": ["sh"], "user": None, "future": {"a": 1}}, mounts=None)
    assert parsed.process.user == spec.User()
    assert parsed.mounts == ()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"root": {}}, "root.path"),
        ({"process": []}, "process"),
        ({"process": {"args": "sh"}}, "process.args"),
        ({"process": {"args": ["a", 1]}}, "process.args[1]"),
        ({"process": {"args": ["a\0b"]}}, "process.args[0]"),
        ({"process": {"terminal": 1}}, "process.terminal"),
        ({"process": {"user": {"uid": True}}}, "process.user.uid"),
        ({"process": {"user": {"uid": 1.5}}}, "process.user.uid"),
        ({"linux": {"sysctl": {"a": 1}}}, "linux.sysctl.a"),
        ({"linux": {"resources": {"rdma": {"x": 1}}}}, "linux.resources.rdma.x"),
    ],
)
def test_refused(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(**document)
    assert caught.value.field == field


def test_what_is_no_json() -> None:
    with pytest.raises(InvalidSpec, match="invalid JSON"):
        spec.parse(b"{")


@pytest.mark.parametrize(
    ("options", "set_", "clear"),
    [
        (("ro", "nosuid"), syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID, 0),
        (("ro", "rw"), 0, syscalls.MOUNT_ATTR_RDONLY),
        (("rw", "ro"), syscalls.MOUNT_ATTR_RDONLY, 0),
        (("noatime",), syscalls.MOUNT_ATTR_NOATIME, DOTTED),
        (("noatime", "relatime"), 0, DOTTED),
        (("strictatime", "noatime"), syscalls.MOUNT_ATTR_NOATIME, DOTTED),
    ],
)
def test_mount_attributes(options: tuple[str, ...], set_: int, clear: int) -> None:
    parsed = mountoptions.parse(options)
    assert (parsed.set_, parsed.clear) == (set_, clear)


def test_mount_words_and_data() -> None:
    parsed = mountoptions.parse(("rbind", "rro", "rshared", "size=1m", "nr_inodes=2", "defaults"))
    assert parsed.bind
    assert parsed.bind_recursive
    assert parsed.recursive_set == syscalls.MOUNT_ATTR_RDONLY
    assert parsed.propagation == ((syscalls.MS_SHARED, True),)
    assert parsed.data == ("size=1m", "nr_inodes=2")
    assert parsed.readonly


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/arp_filter", "sys/net/ipv4/conf/eth0.1/arp_filter"),
        ("net.ipv4.conf.eth0/1.arp_filter", "sys/net/ipv4/conf/eth0.1/arp_filter"),
    ],
)
def test_sysctl_paths(key: str, path: str) -> None:
    assert procfs.sysctl_path(key) == path
    procfs.check_sysctl(key, "1", frozenset({"network"}))
    with pytest.raises(RuntimeFailure, match="not allowed in host network namespace"):
        procfs.check_sysctl(key, "1", frozenset())


def test_cpu_lists() -> None:
    assert parse_cpus("0-2,7") == {0, 1, 2, 7}
    with pytest.raises(RuntimeFailure):
        parse_cpus("0-x")
