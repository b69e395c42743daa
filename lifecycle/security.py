"""Library of lifecycle: --security-opt, and the seccomp filter that a container gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InternalError
from lifecycle import capabilities, seccomp_profile
from lifecycle._pb import containers_pb2 as pb

# What Go's strconv.ParseBool reads.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    seccomp: str = ""  # "": the engine's; "unconfined"; or a profile's JSON
    apparmor: str = ""
    no_new_privileges: bool | None = None  # None: the engine's
    writable_cgroups: bool | None = None  # None: as the container is privileged


def parse(options: Sequence[str]) -> SecurityOptions:
    """Raises Docker's errors, which have no status of their own.

    Labels and AppArmor profiles have no effect on a kernel without SELinux and AppArmor, as with
    Docker: the same command is to work on machines that have them and on those that do not.
    """
    chosen: dict[str, str] = {}
    no_new_privileges: bool | None = None
    writable_cgroups: bool | None = None
    for option in options:
        name, separator, value = option.partition("=" if "=" in option else ":")
        if not separator and option in ("no-new-privileges", "writable-cgroups"):
            value = "true"
        elif not separator and option == "disable":
            continue  # the short form of label=disable
        elif not separator:
            raise InternalError(f'invalid --security-opt 1: "{option}"')
        if name == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif name == "writable-cgroups":
            writable_cgroups = _boolean(value, option)
        elif name in ("label", "apparmor", "seccomp"):
            chosen[name] = value
        else:
            raise InternalError(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        chosen.get("seccomp", ""), chosen.get("apparmor", ""), no_new_privileges, writable_cgroups
    )


def _boolean(value: str, option: str) -> bool:
    if value not in _BOOLEANS:
        raise InternalError(f'invalid --security-opt 2: "{option}"')
    return _BOOLEANS[value]


def no_new_privileges(host: pb.HostConfig, *, default: bool) -> bool:
    chosen = parse(host.security_opt.values).no_new_privileges
    return default if chosen is None else chosen


def label_options(host: pb.HostConfig) -> list[str]:
    """What Docker adds to SecurityOpt: SELinux labels make no sense for who shares with the host.

    It does so on kernels without SELinux too (daemon/create.go, generateSecurityOpt).
    """
    if any(option.partition("=")[0] == "label" for option in host.security_opt.values):
        return []
    shares = host.privileged or "host" in (host.ipc_mode, host.pid_mode)
    return ["label=disable"] if shares else []


def filter_for(host: pb.HostConfig, cache: Path, engine_profile: str | None) -> Path | None:
    """The compiled filter of a container, None for no filter at all."""
    own = parse(host.security_opt.values).seccomp
    chosen = own or _engine_choice(engine_profile)
    if chosen == "unconfined" or (host.privileged and not own):
        return None
    granted = capabilities.adjust(
        host.cap_add.values, host.cap_drop.values, privileged=host.privileged
    )
    if chosen not in ("", "builtin"):
        profile = seccomp_profile.resolve_profile(chosen.encode(), granted)
        return seccomp_profile.cached_filter(cache, profile)
    path = seccomp_profile.default_filter(cache, frozenset(granted))
    if not path.exists():
        seccomp_profile.default_filter.cache_clear()
        path = seccomp_profile.default_filter(cache, frozenset(granted))
    return path


def _engine_choice(profile: str | None) -> str:
    if profile in (None, "", "builtin", "unconfined"):
        return profile or ""
    return Path(profile).read_text() if profile else ""
