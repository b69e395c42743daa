"""Library: which devices a container may open, from OCI rules to either kernel interface.

OCI's rules are v1's: an ordered list of allow and deny. ``Policy`` is what such a list amounts to,
a default and its exceptions, with the kernel's own matching (security/device_cgroup.c). v1 gets the
difference between two policies, so that an update never denies for a moment what stays allowed; v2
gets a program made from the policy (bpf.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from runtime.cgroups import files
from runtime.cgroups.errors import CgroupError
from runtime.spec import DeviceRule, Resources

ANY = -1
ALL_ACCESS = frozenset("rwm")
Key = tuple[str, int, int]  # "c" or "b", major, minor


def _allow(kind: str, major: int | None, minor: int | None, access: str) -> DeviceRule:
    return DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access)


# What every container may use whatever its config says: runtime-spec, config-linux.md, "Default
# Devices", and mknod of anything, since a node that cannot be opened is only a file.
DEFAULT_RULES: tuple[DeviceRule, ...] = (
    _allow("c", None, None, "m"),
    _allow("b", None, None, "m"),
    _allow("c", 1, 3, "rwm"),  # null
    _allow("c", 1, 5, "rwm"),  # zero
    _allow("c", 1, 7, "rwm"),  # full
    _allow("c", 1, 8, "rwm"),  # random
    _allow("c", 1, 9, "rwm"),  # urandom
    _allow("c", 5, 0, "rwm"),  # tty
    _allow("c", 5, 2, "rwm"),  # ptmx
    _allow("c", 136, None, "rwm"),  # pts/*
    # Not in the specification, but in runc, and missed when it was gone (opencontainers/runc#3468).
    _allow("c", 10, 200, "rwm"),  # net/tun
)


def with_default_devices(resources: Resources) -> Resources:
    """What to apply to a new container: rules or none, it has the default devices and no others
    that were not allowed."""
    return replace(resources, devices=(*resources.devices, *DEFAULT_RULES))


@dataclass(slots=True)
class Policy:
    """``default_allow`` and the accesses that are the other way round."""

    default_allow: bool = False
    exceptions: dict[Key, frozenset[str]] = field(default_factory=dict)

    def add(self, rule: DeviceRule) -> None:
        access = frozenset(rule.access or "rwm")
        if not access <= ALL_ACCESS:
            raise CgroupError(f"invalid device access {rule.access!r}")
        major = ANY if rule.major is None or rule.major < 0 else rule.major
        minor = ANY if rule.minor is None or rule.minor < 0 else rule.minor
        if rule.type not in ("a", "b", "c", "u", "", None):
            raise CgroupError(f"invalid device type {rule.type!r}")
        if rule.type not in ("b", "c", "u"):
            if major == minor == ANY and access == ALL_ACCESS:
                self.default_allow = rule.allow
                self.exceptions.clear()
                return
            kinds: tuple[str, ...] = ("c", "b")
        else:
            kinds = ("b",) if rule.type == "b" else ("c",)
        for kind in kinds:
            self._change(rule.allow, (kind, major, minor), access)

    def _change(self, allow: bool, key: Key, access: frozenset[str]) -> None:
        if allow != self.default_allow:
            self.exceptions[key] = self.exceptions.get(key, frozenset()) | access
            return
        for other, granted in self.exceptions.items():
            if other != key and granted & access and _covers(other, key):
                # The kernel cannot express it; silently keeping the wider rule would be a hole.
                raise CgroupError(
                    f"device rule {rule_text(key, access)} is inside {rule_text(other, granted)}"
                    " and cannot be taken out of it"
                )
        if rest := self.exceptions.pop(key, frozenset()) - access:
            self.exceptions[key] = rest


def _covers(wide: Key, narrow: Key) -> bool:
    return wide[0] == narrow[0] and all(
        a in (ANY, b) for a, b in zip(wide[1:], narrow[1:], strict=True)
    )


def policy(rules: Iterable[DeviceRule]) -> Policy:
    """The policy of ``rules``; what no rule mentions is denied."""
    result = Policy()
    for rule in rules:
        result.add(rule)
    return result


def parse_list(text: str) -> Policy:
    """The policy in devices.list. Under allow-all the kernel does not show the exceptions."""
    result = Policy()
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return Policy(default_allow=True)
        major, _, minor = numbers.partition(":")
        key = (kind, ANY if major == "*" else int(major), ANY if minor == "*" else int(minor))
        result.exceptions[key] = frozenset(access)
    return result


def rule_text(key: Key, access: Iterable[str]) -> str:
    kind, major, minor = key
    numbers = f"{'*' if major == ANY else major}:{'*' if minor == ANY else minor}"
    return f"{kind} {numbers} {''.join(sorted(access, key='rwm'.index))}"


def transition(current: Policy, target: Policy) -> Iterator[tuple[str, str]]:
    """(file, value) writes that lead from one policy to the other; grants before withdrawals."""
    same_mode = current.default_allow == target.default_allow and not target.default_allow
    if not same_mode:
        yield "devices.allow" if target.default_allow else "devices.deny", "a *:* rwm"
    grant, withdraw = "devices.allow", "devices.deny"
    if target.default_allow:
        grant, withdraw = withdraw, grant
    before = current.exceptions if same_mode else {}
    for key, access in target.exceptions.items():
        if missing := access - before.get(key, frozenset()):
            yield grant, rule_text(key, missing)
    for key, access in before.items():
        if surplus := access - target.exceptions.get(key, frozenset()):
            yield withdraw, rule_text(key, surplus)


@functools.lru_cache(maxsize=8)
def _from_scratch(rules: tuple[DeviceRule, ...]) -> tuple[tuple[str, str], ...]:
    """The writes for a new cgroup: nearly all containers have the same rules."""
    target = policy(rules)
    if target.default_allow:
        return tuple(transition(Policy(default_allow=True), target))[1:]
    return tuple(transition(Policy(default_allow=True), target))


def apply_v1(directory: str, rules: tuple[DeviceRule, ...], *, fresh: bool) -> None:
    if fresh:
        files.write_sequence(directory, _from_scratch(rules))
        return
    current = parse_list(files.read(directory + "/devices.list"))
    files.write_sequence(directory, transition(current, policy(rules)))
