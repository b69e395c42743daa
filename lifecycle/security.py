"""Library of lifecycle: --security-opt, and the seccomp filter that a container gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InvalidArgument, NotSupported
from lifecycle import capabilities, seccomp_profile
from lifecycle._pb import containers_pb2 as pb

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "": True}


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    seccomp: str = ""  # "": the engine's; "unconfined"; or a profile's JSON
    apparmor: str = ""
    no_new_privileges: bool | None = None  # None: the engine's


def parse(options: Sequence[str]) -> SecurityOptions:
    """Raises Docker's errors; SELinux and AppArmor labels need a kernel that has them."""
    seccomp, apparmor = "", ""
    no_new_privileges: bool | None = None
    for option in options:
        name, separator, value = option.partition("=")
        if not separator:
            name, separator, value = option.partition(":")
        match name:
            case "no-new-privileges":
                if value.lower() not in _BOOLEANS:
                    raise InvalidArgument(f'invalid --security-opt: "{option}"')
                no_new_privileges = _BOOLEANS[value.lower()]
            case "disable" if not separator:
                continue  # SELinux labels off; there are none
            case _ if not separator:
                raise InvalidArgument(f'invalid --security-opt 1: "{option}"')
            case "seccomp":
                seccomp = value
            case "apparmor":
                apparmor = _apparmor(value)
            case "label":
                if value != "disable":
                    raise NotSupported(
                        "this kernel has no SELinux: --security-opt label cannot be met"
                    )
            case "systempaths" if value == "unconfined":
                continue
            case "writable-cgroups":
                raise NotSupported("--security-opt writable-cgroups is not supported")
            case _:
                raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(seccomp, apparmor, no_new_privileges)


def _apparmor(profile: str) -> str:
    if profile in ("unconfined", ""):
        return ""
    if not Path("/sys/kernel/security/apparmor").exists():
        raise NotSupported(
            f"AppArmor is not enabled on this host: profile {profile!r} cannot be applied"
        )
    return profile


def filter_for(host: pb.HostConfig, cache: Path, engine_profile: str | None) -> Path | None:
    """The compiled filter of a container, None for no filter at all."""
    chosen = parse(host.security_opt.values).seccomp or _engine_choice(engine_profile)
    if host.privileged or chosen == "unconfined":
        return None
    granted = capabilities.adjust(host.cap_add.values, host.cap_drop.values, privileged=False)
    if chosen in ("", "builtin"):
        profile = seccomp_profile.default_profile(granted)
    else:
        profile = seccomp_profile.resolve_profile(chosen.encode(), granted)
    return seccomp_profile.cached_filter(cache, profile)


def _engine_choice(profile: str | None) -> str:
    if profile in (None, "", "builtin", "unconfined"):
        return profile or ""
    return Path(profile).read_text() if profile else ""
