"""Processes executed in a running container."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine

Runner = Callable[..., str]


@pytest.fixture
def box(running: Runner) -> str:
    return running("-e", "A=1", "-w", "/tmp", BUSYBOX, "sleep", "1000")


def create(engine: Engine, box: str, *command: str, **options: Any) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **options}
    answer = engine.api("POST", f"/containers/{box}/exec", body)
    assert answer.status == 201, answer.body
    return str(answer.json()["Id"])


def test_output_and_exit_code(engine: Engine, box: str) -> None:
    done = engine.docker("exec", box, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_exit_codes_are_never_late(engine: Engine, box: str) -> None:
    for code in range(20):
        assert (
            engine.docker("exec", box, "sh", "-c", f"exit {code}", check=False).returncode == code
        )


def test_stdin(engine: Engine, box: str) -> None:
    text = "".join(f"line {number}\n" for number in range(5000))
    assert engine.docker("exec", "-i", box, "cat", input=text).stdout == text


def test_it_is_in_the_container(engine: Engine, box: str) -> None:
    inside = engine.docker("exec", box, "sh", "-c", "hostname; pwd; echo $A; cat /proc/1/cmdline")
    host, pwd, variable, command = inside.stdout.split("\n")
    assert (host, pwd, variable) == (engine.inspect(box)["Id"][:12], "/tmp", "1")
    assert command == "sleep\x001000\x00"


def test_options(engine: Engine, box: str) -> None:
    script = "id -u; id -g; pwd; echo $B"
    done = engine.docker("exec", "-u", "70:10", "-w", "/etc", "-e", "B=2", box, "sh", "-c", script)
    assert done.stdout.split() == ["70", "10", "/etc", "2"]


def test_same_limits_and_filters_as_the_container(engine: Engine, box: str) -> None:
    status = engine.docker("exec", box, "cat", "/proc/self/status").stdout
    assert re.search(r"CapEff:\t00000000a80425fb", status)
    assert re.search(r"CapInh:\t0{16}", status)
    assert re.search(r"Seccomp:\t2", status)
    cgroups = engine.docker(
        "exec", box, "sh", "-c", "cat /proc/1/cgroup; echo; cat /proc/self/cgroup"
    )
    first, second = cgroups.stdout.strip().split("\n\n")
    assert first == second


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
def test_filter_that_forbids_to_fork(
    engine: Engine, running: Runner, tmp_path: Path, action: str
) -> None:
    """With CAP_SYS_PTRACE the engine forks once more if it can."""
    forks = ["clone", "clone3", "fork", "vfork"]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": forks, "action": action}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    options = ("--cap-add", "SYS_PTRACE", "--security-opt", f"seccomp={tmp_path}/profile.json")
    box = running(*options, BUSYBOX, "sleep", "1000")
    assert engine.docker("exec", box, "echo", "x").stdout == "x\n"


def test_container_that_may_trace(engine: Engine, running: Runner) -> None:
    box = running("--cap-add", "SYS_PTRACE", "--pids-limit", "4", BUSYBOX, "sleep", "1000")
    with engine.terminal(
        "exec", "-it", box, "sh", "-c", "tty; echo x >/dev/tty; exit 3"
    ) as terminal:
        terminal.expect("/dev/pts/0\r\nx\r\n")
        assert terminal.wait() == 3
    missing = engine.docker("exec", box, "nope", check=False)
    assert (missing.returncode, "executable file not found" in missing.stderr) == (127, True)
    # One at a time: the process that entered for the engine may still be the fourth.
    script = "cat /proc/$$/oom_score_adj; id -u; ls -l /proc/$$/fd"
    score, user, files = engine.docker("exec", "-u", "5", box, "sh", "-c", script).stdout.split(
        "\n", 2
    )
    assert (score, user) == ("0", "5")
    assert "pipe:" in files
    assert "socket:" not in files


def test_privileged(engine: Engine, box: str) -> None:
    status = engine.docker("exec", "--privileged", box, "cat", "/proc/self/status").stdout
    effective = re.search(r"CapEff:\t([0-9a-f]{16})", status)
    assert effective
    assert int(effective[1], 16) & 1 << 21  # CAP_SYS_ADMIN


def test_detached(engine: Engine, box: str) -> None:
    engine.docker("exec", "-d", box, "touch", "/tmp/done")
    polling.until(
        lambda: engine.docker("exec", box, "ls", "/tmp").stdout == "done\n", "the file to appear"
    )


MISSING = [
    ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
    ("/nope", 127, 'exec: "/nope": stat /nope: no such file or directory'),
    ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
]
PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "


@pytest.mark.parametrize(("command", "code", "text"), MISSING)
def test_command_that_cannot_run(
    engine: Engine, box: str, command: str, code: int, text: str
) -> None:
    done = engine.docker("exec", box, command, check=False)
    assert done.returncode == code
    assert PREFIX + text in done.stdout + done.stderr


def test_failure_is_text_after_the_upgrade(engine: Engine, box: str) -> None:
    exec_id = create(engine, box, "nope")
    with engine.hijack(f"/exec/{exec_id}/start", {"Detach": False}) as stream:
        assert stream.status == 101
        text = b"".join(content for _, content in stream.frames())
    assert text.decode().startswith(PREFIX + MISSING[0][2])
    assert engine.api("GET", f"/exec/{exec_id}/json").json()["ExitCode"] == 127


def test_detached_failure_is_an_error(engine: Engine, box: str) -> None:
    answer = engine.api("POST", f"/exec/{create(engine, box, 'nope')}/start", {"Detach": True})
    assert answer.status == 400
    assert answer.message.startswith(PREFIX + MISSING[0][2])


def test_streams_are_framed(engine: Engine, box: str) -> None:
    exec_id = create(engine, box, "sh", "-c", "echo out; sleep 0.1; echo err >&2")
    with engine.hijack(f"/exec/{exec_id}/start", {}) as stream:
        assert stream.head.startswith("HTTP/1.1 101 UPGRADED\r\n")
        assert stream.header("content-type") == "application/vnd.docker.multiplexed-stream"
        assert list(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]


def test_without_upgrade_it_is_200_and_raw(engine: Engine, box: str) -> None:
    exec_id = create(engine, box, "echo", "x", Tty=True)
    with engine.hijack(f"/exec/{exec_id}/start", {"Tty": True}, upgrade=False) as stream:
        assert stream.status == 200
        assert stream.header("content-type") == "application/vnd.docker.raw-stream"
        assert stream.read_all() == b"x\r\n"


def test_half_close_keeps_the_output(engine: Engine, box: str) -> None:
    exec_id = create(engine, box, "sh", "-c", "cat; echo end; exit 5", AttachStdin=True)
    with engine.hijack(f"/exec/{exec_id}/start", {}) as stream:
        stream.send(b"data\n")
        stream.half_close()
        assert b"".join(content for _, content in stream.frames()) == b"data\nend\n"
    # Clients ask right after the end of the stream.
    assert engine.api("GET", f"/exec/{exec_id}/json").json()["ExitCode"] == 5


def test_input_in_one_piece_with_the_request(
    engine: Engine, own_engine: OwnEngine, box: str
) -> None:
    # Docker Engine loses what its HTTP server had read already.
    exec_id = create(engine, box, "cat", AttachStdin=True)
    with engine.hijack(f"/exec/{exec_id}/start", {}, early=b"early\n") as stream:
        stream.half_close()
        assert list(stream.frames()) == [(1, b"early\n")]


def test_inspect(engine: Engine, box: str) -> None:
    script = "until [ -e /tmp/go ]; do sleep 0.01; done"
    exec_id = create(engine, box, "sh", "-c", script, User="postgres")
    before = engine.api("GET", f"/exec/{exec_id}/json").json()
    assert (before["ID"], before["Running"], before["ExitCode"]) == (exec_id, False, None)
    assert before["ContainerID"] == engine.inspect(box)["Id"]
    assert before["ProcessConfig"]["entrypoint"] == "sh"
    assert before["ProcessConfig"]["arguments"] == ["-c", script]
    assert before["ProcessConfig"]["user"] == "postgres"
    assert engine.api("POST", f"/exec/{exec_id}/start", {"Detach": True}).status == 200
    during = engine.api("GET", f"/exec/{exec_id}/json").json()
    assert (during["Running"], during["ExitCode"]) == (True, None)
    assert during["Pid"] > 1
    assert exec_id in engine.inspect(box)["ExecIDs"]
    engine.docker("exec", box, "touch", "/tmp/go")

    def exit_code() -> Any:
        return engine.api("GET", f"/exec/{exec_id}/json").json()["ExitCode"]

    polling.until(lambda: exit_code() == 0, "the end of the exec")
    assert engine.api("GET", f"/exec/{exec_id}/json").json()["Running"] is False


def test_only_once(engine: Engine, box: str) -> None:
    exec_id = create(engine, box, "true")
    assert engine.api("POST", f"/exec/{exec_id}/start", {"Detach": True}).status == 200
    answer = engine.api("POST", f"/exec/{exec_id}/start", {"Detach": True})
    assert answer.status == 409
    assert answer.message.endswith(f"exec command {exec_id} has already run") or (
        answer.message.endswith(f"exec command {exec_id} is already running")
    ), answer.message


def test_not_in_a_paused_one(engine: Engine, box: str) -> None:
    engine.docker("pause", box)
    answer = engine.api("POST", f"/containers/{box}/exec", {"Cmd": ["true"]})
    engine.docker("unpause", box)
    assert (answer.status, answer.message) == (
        409,
        f"Container {box} is paused, unpause the container before exec",
    )


def test_it_ends_with_the_container(engine: Engine, box: str) -> None:
    with engine.spawn("exec", box, "sh", "-c", "echo up; sleep 1000") as client:
        assert client.stdout
        assert client.stdout.readline() == b"up\n"
        engine.docker("kill", box)
        client.communicate(timeout=10)
    assert client.returncode == 137


def test_no_new_privileges_bind_an_exec_too(engine: Engine, running: Callable[..., str]) -> None:
    container = running("--security-opt", "no-new-privileges", BUSYBOX, "sleep", "100")
    for options in ((), ("--privileged",)):
        done = engine.docker("exec", *options, container, "grep", "NoNewPrivs", "/proc/self/status")
        assert done.stdout.split() == ["NoNewPrivs:", "1"]


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("nouser", "unable to find user nouser: no matching entries in passwd file"),
        ("0:nogroup1", "unable to find group nogroup1: no matching entries in group file"),
        ("4294967295", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_unknown_user_is_no_exec(engine: Engine, box: str, user: str, text: str) -> None:
    """Refused when it is created, as by Docker: there is nothing to be started then."""
    answer = engine.api("POST", f"/containers/{box}/exec", {"Cmd": ["true"], "User": user})
    assert (answer.status, answer.json()) == (400, {"message": text})
    done = engine.docker("exec", "-u", user, box, "true", check=False)
    assert (done.returncode, done.stderr) == (1, f"Error response from daemon: {text}\n")
    assert engine.docker("exec", "-u", "nobody", box, "id", "-un").stdout == "nobody\n"
