"""AppArmor: the default profile, others, none; on kernels that have it, as in tests.vm."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine import BUSYBOX, Engine
from tests.probes import requires

pytestmark = requires("apparmor")
Runner = Callable[..., str]

DEFAULT = "docker-default"
PROFILES = Path("/sys/kernel/security/apparmor/profiles")
LABEL = "/proc/self/attr/current"
OWN = "longshore-test"
OWN_TEXT = f"profile {OWN} flags=(attach_disconnected) {{\n  file,\n  deny /etc/passwd w,\n}}\n"


@pytest.fixture
def own_profile() -> Iterator[str]:
    subprocess.run(["apparmor_parser", "-Kr"], input=OWN_TEXT, text=True, check=True)
    yield OWN
    subprocess.run(["apparmor_parser", "-R"], input=OWN_TEXT, text=True, check=True)


def test_default_profile(engine: Engine, running: Runner) -> None:
    assert "name=apparmor" in engine.api("GET", "/info").json()["SecurityOptions"]
    container = running("--cap-add", "ALL", BUSYBOX, "sleep", "1000")
    assert engine.inspect(container)["AppArmorProfile"] == DEFAULT
    pid = engine.inspect(container)["State"]["Pid"]
    label = f"{DEFAULT} (enforce)\n"
    assert Path(f"/proc/{pid}/attr/current").read_text() == label
    assert engine.docker("exec", container, "cat", LABEL).stdout == label
    assert engine.docker("exec", "--privileged", container, "cat", LABEL).stdout == label
    command = ("mount", "-t", "tmpfs", "none", "/etc")
    done = engine.docker("exec", "--privileged", container, *command, check=False)
    assert "ermission denied" in done.stderr
    engine.docker("exec", container, "sh", "-c", "sleep 100 & kill -9 $! && ps >/etc/new")
    engine.docker("stop", "-t", "5", container)
    assert engine.inspect(container)["State"]["ExitCode"] in (137, 143)


@pytest.mark.parametrize(
    ("file", "writable"),
    [
        ("/proc/sys/kernel/shmmax", True),
        ("/proc/self/oom_score_adj", True),
        ("/proc/sys/kernel/panic", False),
        ("/proc/sys/kernel/core_pattern", False),
        ("/proc/sys/vm/swappiness", False),
        ("/proc/sysrq-trigger", False),
        ("/proc/irq/default_smp_affinity", False),
        ("/sys/kernel/mm/ksm/run", False),
        ("/sys/fs/cgroup/cgroup.max.depth", True),
    ],
)
def test_default_profile_on_proc_and_sys(engine: Engine, file: str, *, writable: bool) -> None:
    """Without the other walls: read-only mounts, masks and capabilities."""
    walls = ("systempaths=unconfined", "writable-cgroups=true", "seccomp=unconfined")
    options = [word for wall in walls for word in ("--security-opt", wall)]
    if file.startswith("/sys/kernel"):
        options += ["-v", "/sys:/sys"]
    done = engine.docker(
        *("run", "--rm", "--cap-add", "ALL", *options, BUSYBOX, "sh", "-c"),
        f"value=$(cat {file} 2>/dev/null); echo ${{value:-0}} > {file}",
        check=False,
    )
    assert ("ermission denied" in done.stderr) is not writable, done.stderr


def test_profile_that_was_unloaded_comes_back(engine: Engine, running: Runner) -> None:
    (Path(PROFILES).parent / ".remove").write_text(DEFAULT)
    assert DEFAULT not in PROFILES.read_text()
    container = running(BUSYBOX, "sleep", "1000")
    assert f"{DEFAULT} (enforce)" in PROFILES.read_text()
    assert engine.docker("exec", container, "cat", LABEL).stdout == f"{DEFAULT} (enforce)\n"


@pytest.mark.parametrize("options", ["--privileged", "--security-opt apparmor=unconfined"])
def test_unconfined(engine: Engine, running: Runner, options: str) -> None:
    container = running(*options.split(), BUSYBOX, "sleep", "1000")
    assert engine.inspect(container)["AppArmorProfile"] == "unconfined"
    assert engine.docker("exec", container, "cat", LABEL).stdout == "unconfined\n"


@pytest.mark.parametrize("more", ["", "no-new-privileges"])
def test_own_profile(engine: Engine, running: Runner, own_profile: str, more: str) -> None:
    options = ("--security-opt", more) if more else ()
    container = running(
        *(*options, "--security-opt", f"apparmor={own_profile}", BUSYBOX, "sleep", "1000")
    )
    assert engine.inspect(container)["AppArmorProfile"] == own_profile
    assert engine.docker("exec", container, "cat", LABEL).stdout == f"{own_profile} (enforce)\n"
    done = engine.docker("exec", container, "sh", "-c", "echo x > /etc/passwd", check=False)
    assert "ermission denied" in done.stderr
    engine.api("DELETE", f"/containers/{container}?force=1")


def test_unknown_profile(engine: Engine, name: str) -> None:
    done = engine.docker(
        "run", "--name", name, "--security-opt", "apparmor=nope", BUSYBOX, "true", check=False
    )
    assert done.returncode == 127  # Docker goes by "no such file or directory"
    assert (
        "error during container init: unable to apply apparmor profile: apparmor failed to apply "
        "profile: write /proc/thread-self/attr/apparmor/exec: no such file or directory"
    ) in done.stderr
    assert engine.inspect(name)["State"]["ExitCode"] == 127
