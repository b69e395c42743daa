"""``longshore-runtime``: runc's command line, one process a command."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.sealed import is_sealed
from tests.polling import until
from tests.root.runtime_lab import Box, Command


@pytest.fixture(autouse=True)
def _end(box: Box, command: Command) -> Iterator[None]:
    yield
    command("delete", "--force", box.id)


def ok(command: Command, *arguments: str) -> str:
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def create(box: Box, command: Command, *args: str) -> int:
    box.write(*args)
    pid_file = box.directory / "pid"
    ok(command, "create", "--bundle", str(box.bundle), "--pid-file", str(pid_file), box.id)
    return int(pid_file.read_text())


def status(box: Box, command: Command) -> str:
    return str(json.loads(ok(command, "state", box.id))["status"])


def test_a_life(box: Box, command: Command) -> None:
    pid = create(box, command, "sleep", "100")
    assert json.loads(ok(command, "state", box.id)) | {"created": ""} == {
        "ociVersion": "1.2.0",
        "id": box.id,
        "pid": pid,
        "status": "created",
        "bundle": str(box.bundle),
        "rootfs": str(box.rootfs),
        "created": "",
        "owner": "",
    }
    ok(command, "start", box.id)
    assert status(box, command) == "running"
    assert command("start", box.id).returncode == 1
    assert command("delete", box.id).returncode == 1
    ok(command, "kill", box.id, "KILL")
    until(lambda: status(box, command) == "stopped", "the container to end")
    ok(command, "delete", box.id)
    done = command("state", box.id)
    assert (done.returncode, "container does not exist" in done.stderr) == (1, True)


def test_init_waits_as_a_sealed_interpreter(box: Box, command: Command) -> None:
    """CVE-2019-5736: what waits in the container is no file of the host."""
    pid = create(box, command, "sh", "-c", "sleep 100")
    fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
    assert is_sealed(fd)
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:longshore")
    os.close(fd)


def test_entrypoint_is_the_runtime_itself(box: Box, command: Command) -> None:
    interpreter = Path(sys.executable).resolve()
    before = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    (box.rootfs / "evil").write_text("#!/proc/self/exe\n")
    (box.rootfs / "evil").chmod(0o755)
    box.write("/evil")
    command("run", "--bundle", str(box.bundle), box.id)
    assert hashlib.sha256(interpreter.read_bytes()).hexdigest() == before


def test_run_in_the_foreground(box: Box, command: Command) -> None:
    box.write("sh", "-c", "echo out; echo err >&2; exit 9")
    done = command("run", "--bundle", str(box.bundle), box.id)
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    assert not (box.state_root / box.id).exists()


def test_run_detached_and_exec(box: Box, command: Command) -> None:
    box.write("sleep", "100")
    ok(command, "run", "--detach", "--bundle", str(box.bundle), box.id)
    done = command(
        *(
            "exec",
            "-u",
            "5:6",
            "-g",
            "7",
            "--cwd",
            "/bin",
            "-e",
            "A=b",
            "-c",
            "CAP_NET_RAW",
            box.id,
        ),
        *("sh", "-c", "id -u; id -G; pwd; echo $A; grep CapBnd /proc/self/status; exit 4"),
    )
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[:4]) == (4, ["5", "6 7", "/bin", "b"])
    assert int(lines[4].split()[1], 16) & 1 << 13
    process = box.directory / "process.json"
    process.write_text(json.dumps({**box.process, "args": ["echo", "from file"]}))
    assert ok(command, "exec", "--process", str(process), box.id) == "from file\n"
    done = command("exec", box.id, "nope")
    assert done.returncode == 255
    text = 'unable to start container process: exec: "nope": executable file not found in $PATH'
    assert done.stderr == f"longshore-runtime exec failed: {text}\n"


def test_exec_detached(box: Box, command: Command) -> None:
    box.write("sleep", "100")
    ok(command, "run", "-d", "-b", str(box.bundle), box.id)
    pid_file = box.directory / "exec.pid"
    ok(command, "exec", "-d", "--pid-file", str(pid_file), box.id, "sleep", "200")
    pid = int(pid_file.read_text())
    # The kernel closes what is close-on-exec, and so lets the command end, before it sets the line.
    line = Path(f"/proc/{pid}/cmdline")
    until(lambda: line.read_bytes() == b"sleep\x00200\x00", "the program", explain=line.read_text)
    listed = json.loads(ok(command, "ps", "--format", "json", box.id))
    assert (len(listed), pid in listed) == (2, True)


def test_pause_update_and_events(box: Box, command: Command) -> None:
    box.write("sleep", "100")
    ok(command, "run", "-d", "-b", str(box.bundle), box.id)
    ok(command, "pause", box.id)
    assert status(box, command) == "paused"
    assert command("exec", box.id, "true").returncode == 255
    ok(command, "resume", box.id)
    ok(command, "update", "--pids-limit", "33", "--memory", "40000000", box.id)
    event = json.loads(ok(command, "events", "--stats", box.id))
    assert event["type"] == "stats"
    assert event["data"]["pids"] == {"current": 1, "limit": 33}
    assert event["data"]["memory"]["usage"]["limit"] == 40000000 // 4096 * 4096
    resources = box.directory / "resources.json"
    resources.write_text('{"pids": {"limit": 44}}')
    ok(command, "update", "-r", str(resources), box.id)
    event = json.loads(ok(command, "events", "--stats", box.id))
    assert event["data"]["pids"]["limit"] == 44


def test_lists(box: Box, command: Command) -> None:
    assert ok(command, "list", "-q") == ""
    assert json.loads(ok(command, "list", "-f", "json")) is None
    create(box, command, "sleep", "100")
    assert ok(command, "list", "-q") == f"{box.id}\n"
    header, row = ok(command, "list").splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[0] == box.id


def test_console_socket(box: Box, command: Command) -> None:
    box.process["terminal"] = True
    box.write("sh", "-c", "echo on the terminal; sleep 100")
    assert command("create", "-b", str(box.bundle), box.id).returncode == 1
    path = box.directory / "console.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        arguments = ("--console-socket", str(path), "-b", str(box.bundle), box.id)
        ok(command, "create", *arguments)
        connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    ok(command, "start", box.id)
    with open(fds[0], "rb", buffering=0) as master:
        shown = b""
        while not shown.endswith(b"\r\n"):  # a terminal gives a line's end by itself
            shown += master.read(100)
    assert shown == b"on the terminal\r\n"


def test_preserved_descriptors(box: Box, command: Command) -> None:
    box.write("sh", "-c", "cat <&3; ls /proc/self/fd")
    read, write = os.pipe()
    os.write(write, b"passed on\n")
    os.close(write)
    wanted = fcntl.fcntl(read, fcntl.F_DUPFD, 20)
    done = _with_descriptor_3(box, command, wanted)
    assert done.splitlines()[0] == "passed on"
    os.close(read)
    os.close(wanted)


def _with_descriptor_3(box: Box, command: Command, fd: int) -> str:
    """Through a shell: subprocess cannot move a descriptor to a number of choice."""
    script = f'exec "$@" 3<&{fd}'
    done = subprocess.run(
        [
            *("bash", "-c", script, "bash", sys.executable, "-m", "runtime"),
            *("--root", str(box.state_root), "run", "--preserve-fds", "1"),
            *("-b", str(box.bundle), box.id),
        ],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_seccomp_is_kept_for_exec(box: Box, command: Command) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    box.write("sleep", "100")
    ok(command, "run", "-d", "-b", str(box.bundle), box.id)
    (box.bundle / "config.json").unlink()
    done = command("exec", box.id, "mkdir", "/tmp/x")
    assert "Permission denied" in done.stderr


def test_seccomp_listener(box: Box, command: Command) -> None:
    path = box.directory / "agent.sock"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "meta",
        "syscalls": [rule],
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.bind(str(path))
        agent.listen()
        pid = create(box, command, "sleep", "100")
        connection, _ = agent.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    document = json.loads(data)
    assert (document["pid"], document["metadata"], document["fds"]) == (pid, "meta", ["seccompFd"])
    assert os.readlink(f"/proc/self/fd/{fds[0]}") == "anon_inode:seccomp notify"
    os.close(fds[0])


def test_recycled_pid_is_not_signalled(box: Box, command: Command) -> None:
    create(box, command, "sleep", "100")
    victim = os.fork()
    if victim == 0:
        signal.pause()
        os._exit(0)
    path = box.state_root / box.id / "state.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"pid": victim}))
    assert status(box, command) == "stopped"
    assert command("kill", box.id, "KILL").returncode == 1
    path.write_text(json.dumps(saved | {"bootID": "another"}))
    assert status(box, command) == "stopped"
    path.write_text(json.dumps(saved))
    os.kill(victim, 0)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)


def test_no_pivot(box: Box, command: Command) -> None:
    box.write("sh", "-c", "ls /; hostname")
    done = command("run", "--no-pivot", "-b", str(box.bundle), box.id)
    assert done.stdout.split()[-1] == "box"
    assert "bin" in done.stdout.split()


def test_log_file(box: Box, command: Command) -> None:
    log = box.directory / "log.json"
    assert command("--log", str(log), "--log-format", "json", "state", "missing").returncode == 1
    entry = json.loads(log.read_text())
    assert (entry["level"], "container does not exist" in entry["msg"]) == ("error", True)


def test_what_is_refused(box: Box, command: Command) -> None:
    box.write("true")
    done = command("--systemd-cgroup", "run", "-b", str(box.bundle), box.id)
    assert (done.returncode, "systemd cgroup driver is not supported" in done.stderr) == (1, True)
    assert command("create", "-b", str(box.directory), box.id).returncode == 1


def test_spec_and_features(box: Box, command: Command) -> None:
    ok(command, "spec", "--bundle", str(box.bundle))
    assert command("spec", "--bundle", str(box.bundle)).returncode == 1
    box.config = json.loads((box.bundle / "config.json").read_text())
    box.config["process"]["terminal"] = False
    box.config["process"]["env"] = ["PATH=/bin"]
    box.write("hostname")
    done = command("run", "-b", str(box.bundle), box.id)
    assert (done.returncode, done.stdout) == (0, "longshore\n"), done.stderr
    found = json.loads(ok(command, "features"))
    assert {"rro", "bind", "tmpcopyup", "idmap"} <= set(found["mountOptions"])
    assert found["linux"]["cgroup"]["systemd"] is False
