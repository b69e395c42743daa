"""Library: the options of an OCI mount as what the kernel's mount calls take; pure functions.

The table is the specification's (config.md, "Linux mount options") with runc's additions. What is
in no table is an option of the file system itself and goes to fsconfig.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime import syscalls
from runtime.syscalls import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)

# option: (attributes to set, attributes to clear)
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    # Relative is the value 0 of the field, and what undoing the others leads to.
    "relatime": (0, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
}
PROPAGATION: dict[str, tuple[int, bool]] = {
    f"{recursive}{name}": (value, bool(recursive))
    for recursive in ("", "r")
    for name, value in {
        "private": syscalls.MS_PRIVATE,
        "shared": syscalls.MS_SHARED,
        "slave": syscalls.MS_SLAVE,
        "unbindable": syscalls.MS_UNBINDABLE,
    }.items()
}
WORDS = frozenset(("bind", "rbind", "tmpcopyup", "idmap", "ridmap"))
NO_EFFECT = frozenset(
    ("", "async", "defaults", "nolazytime", "nomand", "iversion", "noiversion", "silent", "loud")
)


@dataclass(frozen=True, slots=True)
class MountOptions:
    bind: bool = False
    bind_recursive: bool = False
    set_: int = 0
    clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: tuple[tuple[int, bool], ...] = ()
    copy_up: bool = False
    idmap: bool = False
    idmap_recursive: bool = False
    data: tuple[str, ...] = ()  # "key=value" or "flag", for fsconfig

    @property
    def readonly(self) -> bool:
        return bool((self.set_ | self.recursive_set) & MOUNT_ATTR_RDONLY)


@dataclass(slots=True)
class _Change:
    set_: int = 0
    clear: int = 0

    def add(self, change: tuple[int, int]) -> None:
        """The last word counts, so a later option undoes an earlier one."""
        set_, clear = change
        self.set_ = self.set_ & ~clear | set_
        # The atime field is only valid as a whole: setting a value needs all of it cleared.
        self.clear = (self.clear & ~(set_ & ~MOUNT_ATTR__ATIME)) | clear


def parse(options: tuple[str, ...]) -> MountOptions:
    plain, recursive = _Change(), _Change()
    propagation: list[tuple[int, bool]] = []
    data: list[str] = []
    words: set[str] = set()
    for option in options:
        if option in ATTRIBUTES:
            plain.add(ATTRIBUTES[option])
        elif option[:1] == "r" and option[1:] in ATTRIBUTES:
            recursive.add(ATTRIBUTES[option[1:]])
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option in WORDS:
            words.add(option)
        elif option and option not in NO_EFFECT:
            data.append(option)
    return MountOptions(
        bind=bool(words & {"bind", "rbind"}),
        bind_recursive="rbind" in words,
        set_=plain.set_,
        clear=plain.clear,
        recursive_set=recursive.set_,
        recursive_clear=recursive.clear,
        propagation=tuple(propagation),
        copy_up="tmpcopyup" in words,
        idmap=bool(words & {"idmap", "ridmap"}),
        idmap_recursive="ridmap" in words,
        data=tuple(data),
    )
