"""Every flag of docker run, create, update and exec: shown by inspect, and proven by some test.

The tables are in flags.py; the client's own --help says whether one is missing there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.compat import flags
from tests.compat.test_limits import V2
from tests.engine import BUSYBOX, Engine

HERE = Path(__file__).parent
WINDOWS = ("--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops")
V1_ONLY = ("--oom-kill-disable", "--memory-swappiness")


def listed(engine: Engine, *verb: str) -> set[str]:
    text = engine.docker(*verb, "--help").stdout
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE))


def name_of(flag: flags.Flag) -> str:
    return flag.option.partition("=")[0]


def at(shown: Any, place: str) -> Any:
    for key in place.split("."):
        shown = shown[key]
    return shown


def test_every_flag_is_in_a_table(engine: Engine) -> None:
    create = {name_of(flag) for flag in (*flags.CREATED, *flags.ALONE)} | flags.ELSEWHERE.keys()
    update = {name_of(flag) for flag in flags.UPDATED} | flags.UPDATE_ELSEWHERE.keys()
    for verb, known in (
        ("run", create),
        ("create", create),
        ("update", update),
        ("exec", flags.EXEC.keys()),
    ):
        assert listed(engine, verb) <= known | {"--help"}, verb


def test_every_effect_has_its_test() -> None:
    rows = (*flags.CREATED, *flags.ALONE, *flags.UPDATED)
    places = {flag.effect for flag in rows if flag.effect}
    for table in (flags.ELSEWHERE, flags.UPDATE_ELSEWHERE, flags.EXEC):
        places |= {place for place in table.values() if "::" in place}
    for place in places:
        file, _, function = place.partition("::")
        assert f"def {function}(" in (HERE / file).read_text(), place


def test_created(engine: Engine, name: str) -> None:
    given = [flag for flag in flags.CREATED if not (V2 and name_of(flag) in V1_ONLY)]
    options = [flag.option for flag in given]
    engine.docker("create", "--name", name, *options, BUSYBOX)
    shown = engine.inspect(name)
    for flag in given:
        assert at(shown, flag.place) == flag.shown, flag.option


@pytest.mark.parametrize("flag", flags.ALONE, ids=name_of)
def test_created_alone(engine: Engine, name: str, flag: flags.Flag) -> None:
    engine.docker("create", "--name", name, flag.option, BUSYBOX)
    assert at(engine.inspect(name), flag.place) == flag.shown


def test_updated(engine: Engine, running: Callable[..., str]) -> None:
    container = running("-m", "64m", BUSYBOX, "sleep", "1000")
    given = [flag for flag in flags.UPDATED if flag.place]
    engine.docker("update", *[flag.option for flag in given], container)
    shown = engine.inspect(container)
    for flag in given:
        assert at(shown, flag.place) == flag.shown, flag.option


def test_refused(engine: Engine, name: str) -> None:
    for option, text in (
        *(
            (f"{flag}=5", "only supported on a Docker daemon running on windows")
            for flag in WINDOWS
        ),
        ("--isolation=hyperv", "linux only supports 'default'"),
    ):
        done = engine.docker("create", "--name", name, option, BUSYBOX, check=False)
        assert done.returncode == 1
        assert text in done.stderr


def test_values_from_files(engine: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nONE=1\nTWO=two words\n")
    (tmp_path / "labels").write_text("l=m\n# comment\n")
    done = engine.docker(
        *("run", "--name", name, "--env-file", str(tmp_path / "env"), "-e", "ONE=other"),
        *("--label-file", str(tmp_path / "labels"), "--entrypoint", "sh", BUSYBOX),
        *("-c", "echo $ONE, $TWO"),
    )
    assert done.stdout == "other, two words\n"
    assert engine.inspect(name)["Config"]["Labels"] == {"l": "m"}


def test_pull(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--pull", "never", "no/such:image", check=False)
    assert done.returncode == 125
    assert "No such image: no/such:image" in done.stderr
    done = engine.docker("run", "--rm", "-q", "--pull", "missing", BUSYBOX, "echo", "there")
    assert (done.stdout, done.stderr) == ("there\n", "")


def test_cgroup_parent(engine: Engine, running: Callable[..., str]) -> None:
    container = running("--cgroup-parent", "/t-longshore", BUSYBOX, "sleep", "1000")
    state = engine.inspect(container)
    paths = Path(f"/proc/{state['State']['Pid']}/cgroup").read_text().splitlines()
    below = [line for line in paths if line.endswith(f"/t-longshore/{state['Id']}")]
    assert below, paths
    engine.docker("rm", "-f", container)
    # Docker too leaves what it was told to use.
    roots = Path("/sys/fs/cgroup")
    parents = (*roots.glob("t-longshore"), *roots.glob("*/t-longshore"))
    # The shim removes the container's own after the client has its answer.
    polling.until(
        lambda: not any((parent / state["Id"]).exists() for parent in parents),
        "the end of the container's cgroups",
    )
    for parent in parents:
        with suppress(FileNotFoundError):  # two controllers may be one directory
            parent.rmdir()


def test_addresses(engine: Engine, running: Callable[..., str], name: str) -> None:
    engine.docker("network", "create", "--ipv6", "--subnet", "fd99:7::/64", name)
    try:
        container = running("--network", name, "--ip6", "fd99:7::77", BUSYBOX, "sleep", "1000")
        found = engine.docker("exec", container, "ip", "-6", "address", "show", "eth0").stdout
        assert "fd99:7::77/64" in found
    finally:
        engine.api("DELETE", f"/containers/{container}?force=1")
        engine.docker("network", "rm", name)


def test_stop_signal_and_timeout(engine: Engine, running: Callable[..., str]) -> None:
    script = "trap 'exit 5' INT; trap '' TERM; echo up; while :; do sleep 0.05; done"
    container = running("--stop-signal", "SIGINT", BUSYBOX, "sh", "-c", script)
    polling.until(lambda: engine.docker("logs", container).stdout, "the trap")
    engine.docker("stop", container)
    assert engine.inspect(container)["State"]["ExitCode"] == 5
    engine.docker("rm", container)
    container = running("--stop-timeout", "0", BUSYBOX, "sh", "-c", script)
    polling.until(lambda: engine.docker("logs", container).stdout, "the trap")
    engine.docker("stop", container)
    assert engine.inspect(container)["State"]["ExitCode"] == 137


def test_health_start_period(engine: Engine, running: Callable[..., str]) -> None:
    # The interval is an hour: only checks of the start period can have found it healthy.
    container = running(
        *("--health-cmd", "test -e /ready", "--health-interval", "1h", "--health-retries", "1"),
        *("--health-start-period", "1h", "--health-start-interval", "200ms"),
        *(BUSYBOX, "sh", "-c", "sleep 0.5; touch /ready; sleep 1000"),
    )

    def health() -> Any:
        return engine.inspect(container)["State"]["Health"]

    polling.until(lambda: health()["Status"] == "healthy", "a check of the start period")
    assert health()["FailingStreak"] == 0


def test_exec(engine: Engine, running: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "env").write_text("ONE=1\nTWO=2\n")
    container = running(BUSYBOX, "sleep", "1000")
    done = engine.docker(
        *("exec", "--env-file", str(tmp_path / "env"), "--env", "TWO=x", container),
        *("sh", "-c", "echo $ONE $TWO"),
    )
    assert done.stdout == "1 x\n"
    assert engine.docker("exec", "-t", container, "tty").stdout == "/dev/pts/0\r\n"
    assert engine.docker("exec", "--detach", container, "touch", "/made").stdout == ""
    polling.until(
        lambda: engine.docker("exec", container, "ls", "/made", check=False).returncode == 0,
        "the detached program",
    )
