"""Library of lifecycle: AppArmor, on hosts that have it in the kernel and its parser installed.

The default profile has the name of Docker's. One of that name that is there already is taken as it
is: another engine uses it, or an operator has loaded an own. Otherwise ours is loaded, when the
daemon starts and again before a process needs it, because upgrades of a host may unload it. The
kernel keeps it when the daemon ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from common.errors import InternalError

DEFAULT, UNCONFINED = "docker-default", "unconfined"
PROFILES = Path("/sys/kernel/security/apparmor/profiles")
ENABLED = Path("/sys/module/apparmor/parameters/enabled")
OWN_LABEL = Path("/proc/self/attr/current")

# A container's root has a capability or two with which it could change the host by way of /proc and
# /sys. Reading is allowed save for what tells about the host's memory, firmware and power.
PROFILE = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  capability,
  file,
  network,
  umount,
  deny mount,

  # Signals come from the engine, from whoever is not confined, and from the container itself.
  signal (receive) peer=unconfined,
  signal (receive) peer={engine},
  signal (send,receive) peer={name},
  ptrace (trace,read,tracedby,readby) peer={name},

  # Of /proc only the processes' own directories and /proc/sys/kernel/shm* can be written.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/kcore rwklx,
  deny /proc/sysrq-trigger rwklx,

  # Of /sys only the cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def in_kernel() -> bool:
    """Whether profiles can be seen: what ``docker info`` tells."""
    try:
        PROFILES.open("rb").close()
    except OSError:
        return False
    return True


@cache
def usable() -> bool:
    """Not in a container, whose profiles are the host's business; as Docker decides it."""
    if "container" in os.environ or _parser() is None or not in_kernel():
        return False
    try:
        return ENABLED.read_text().startswith("Y")
    except OSError:
        return False


def _parser() -> str | None:
    return shutil.which("apparmor_parser", path="/sbin:/usr/sbin")


def profile_for(chosen: str, *, privileged: bool) -> str:
    """What a container runs under, as inspect shows it from its start on."""
    if not in_kernel():
        return ""
    return UNCONFINED if privileged else chosen or DEFAULT


def applied(profile: str) -> str:
    """What the runtime is to set for ``profile``; the default is loaded if need be."""
    if not profile or not usable():
        return ""
    if profile == DEFAULT:
        ensure_default()
    return profile


def ensure_default() -> None:
    if not usable() or _is_loaded(DEFAULT):
        return
    engine = OWN_LABEL.read_text().partition(" ")[0].strip()
    text = PROFILE.format(name=DEFAULT, engine=engine or UNCONFINED)
    # -K: no cache of what the parser makes, its directory may be read-only.
    command = [str(_parser()), "-Kr"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise InternalError(
            f"AppArmor enabled on system but the {DEFAULT} profile could not be loaded: "
            f"running '{' '.join(command)}' failed with output: {done.stderr.strip()}"
        )


def _is_loaded(name: str) -> bool:
    with PROFILES.open() as file:
        return any(line.partition(" ")[0] == name for line in file)
