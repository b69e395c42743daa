"""``docker run`` without a terminal: what its options do to the process in the container."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine


def output(engine: Engine, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments).stdout


def test_output_and_exit_code(engine: Engine) -> None:
    done = engine.docker(
        "run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 7", check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_image_command_is_the_default(engine: Engine) -> None:
    assert engine.docker("run", "--rm", "-i", BUSYBOX, input="echo from sh\n").stdout == "from sh\n"


def test_stdin_reaches_the_process_and_ends(engine: Engine) -> None:
    text = "".join(f"line {number}\n" for number in range(5000))
    assert engine.docker("run", "--rm", "-i", BUSYBOX, "cat", input=text).stdout == text


def test_short_outputs_are_complete(engine: Engine) -> None:
    for number in range(20):
        assert output(engine, BUSYBOX, "echo", str(number)) == f"{number}\n"


def test_large_output_is_complete(engine: Engine) -> None:
    done = engine.docker("run", "--rm", BUSYBOX, "sh", "-c", "seq 100000; seq 100000 >&2")
    expected = "".join(f"{number}\n" for number in range(1, 100001))
    assert (done.stdout, done.stderr) == (expected, expected)


def test_environment(engine: Engine) -> None:
    lines = output(engine, "-e", "A=1", "-e", "B=x y", "-h", "box", BUSYBOX, "env").splitlines()
    assert {"A=1", "B=x y", "HOSTNAME=box", "HOME=/root"} <= set(lines)
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)


def test_working_directory_is_made(engine: Engine) -> None:
    assert output(engine, "-w", "/made/here", BUSYBOX, "pwd") == "/made/here\n"


USERS = [
    ("nobody", "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"),
    ("postgres", "uid=70(postgres) gid=70(postgres) groups=10(wheel),70(postgres)"),
    ("postgres:wheel", "uid=70(postgres) gid=10(wheel) groups=10(wheel)"),
    ("1234", "uid=1234 gid=0(root) groups=0(root)"),
    ("1234:4321", "uid=1234 gid=4321 groups=4321"),
]


@pytest.mark.parametrize(("user", "expected"), USERS)
def test_user(engine: Engine, user: str, expected: str) -> None:
    # Both busyboxes that tests may meet print the primary group at another place.
    def parts(text: str) -> set[str]:
        return set(re.split(r"[ =,]", text.strip()))

    assert parts(output(engine, "-u", user, BUSYBOX, "id")) >= parts(expected) - {"groups"}


def test_group_add(engine: Engine) -> None:
    groups = output(
        engine, "-u", "1:2", "--group-add", "wheel", "--group-add", "777", BUSYBOX, "id", "-G"
    )
    assert set(groups.split()) == {"2", "10", "777"}


def test_entrypoint(engine: Engine) -> None:
    assert output(engine, "--entrypoint", "echo", BUSYBOX, "a", "b") == "a b\n"


def test_name_and_removal(engine: Engine, name: str) -> None:
    assert output(engine, "--name", name, BUSYBOX, "echo", "x") == "x\n"
    assert engine.api("GET", f"/containers/{name}/json").status == 404


def test_without_rm_it_stays(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, BUSYBOX, "true")
    state = engine.inspect(name)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


def test_detached(engine: Engine, name: str) -> None:
    done = engine.docker("run", "-d", "--name", name, BUSYBOX, "sleep", "100")
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout)
    assert engine.status(name) == "running"


def test_detached_and_rm(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--rm", "--name", name, BUSYBOX, "true")
    polling.until(
        lambda: engine.api("GET", f"/containers/{name}/json").status == 404, f"{name} to be gone"
    )


def test_cidfile(engine: Engine, name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/cid"
    engine.docker("run", "--name", name, "--cidfile", path, BUSYBOX, "true")
    with open(path) as file:
        assert file.read() == engine.inspect(name)["Id"]


def test_hostname(engine: Engine) -> None:
    assert output(engine, "-h", "box", "--domainname", "test", BUSYBOX, "hostname") == "box\n"
    assert re.fullmatch(r"[0-9a-f]{12}\n", output(engine, BUSYBOX, "hostname"))


def test_read_only_root(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--read-only", BUSYBOX, "touch", "/x", check=False)
    assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)


def test_default_capabilities(engine: Engine) -> None:
    status = output(engine, BUSYBOX, "cat", "/proc/self/status")
    assert re.search(r"CapEff:\t00000000a80425fb", status)
    assert re.search(r"CapInh:\t0{16}", status)
    assert re.search(r"CapAmb:\t0{16}", status)
    assert re.search(r"Seccomp:\t2", status)
    assert re.search(r"NoNewPrivs:\t0", status)


def test_capabilities_of_another_user(engine: Engine) -> None:
    status = output(engine, "-u", "nobody", BUSYBOX, "cat", "/proc/self/status")
    assert re.search(r"CapEff:\t0{16}", status)
    assert re.search(r"CapBnd:\t00000000a80425fb", status)


def test_cap_add_and_drop(engine: Engine) -> None:
    status = output(
        engine, "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", BUSYBOX, "cat", "/proc/self/status"
    )
    assert re.search(r"CapEff:\t0000000000001000", status)


def test_privileged(engine: Engine) -> None:
    script = "grep -q 'Seccomp:.0' /proc/self/status && mount -t tmpfs x /mnt && ls /dev | wc -l"
    done = engine.docker(
        "run", "--rm", "--privileged", BUSYBOX, "sh", "-c", f"mkdir /mnt; {script}"
    )
    assert int(done.stdout) > 15


def test_init_is_process_one(engine: Engine) -> None:
    assert output(engine, BUSYBOX, "sh", "-c", "echo $$") == "1\n"


def test_no_descriptor_is_left_open(engine: Engine) -> None:
    # 3 is the directory that ls itself reads.
    assert output(engine, BUSYBOX, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_masked_and_read_only_paths(engine: Engine) -> None:
    script = "cat /proc/keys /proc/timer_list | wc -c; echo 7 > /proc/sys/kernel/printk"
    done = engine.docker("run", "--rm", BUSYBOX, "sh", "-c", script, check=False)
    assert done.stdout == "0\n"
    assert "Read-only file system" in done.stderr


def test_devices(engine: Engine) -> None:
    names = set(output(engine, BUSYBOX, "ls", "/dev").split())
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm"} <= names
    assert not {"mem", "kmsg", "sda", "vda"} & names


def test_ulimit_and_sysctl(engine: Engine) -> None:
    arguments = ("--ulimit", "nofile=123:456", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7")
    script = "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert output(engine, *arguments, BUSYBOX, "sh", "-c", script).split() == ["123", "456", "7"]


def test_shm_size(engine: Engine) -> None:
    lines = output(engine, "--shm-size", "8m", BUSYBOX, "df", "-k", "/dev/shm").splitlines()
    assert lines[1].split()[1] == "8192"


def test_memory_limit_kills(engine: Engine, name: str) -> None:
    # tail keeps the last line, and there is no line: it would need all memory.
    command = ("--memory", "16m", "--memory-swap", "16m", BUSYBOX, "tail", "/dev/zero")
    done = engine.docker("run", "--name", name, *command, check=False)
    state = engine.inspect(name)["State"]
    assert (done.returncode, state["ExitCode"], state["OOMKilled"]) == (137, 137, True)


def test_pids_limit(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done"
    done = engine.docker(
        "run", "--rm", "--pids-limit", "4", BUSYBOX, "sh", "-c", script, check=False
    )
    assert "can't fork" in done.stderr


def test_pid_namespace_of_another(engine: Engine, running: Callable[..., str]) -> None:
    other = running(BUSYBOX, "sleep", "987")
    assert "sleep 987" in output(engine, "--pid", f"container:{other}", BUSYBOX, "ps")


def test_stop_signal_from_the_client(engine: Engine, name: str) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with engine.spawn("run", "--name", name, BUSYBOX, "sh", "-c", script) as client:
        assert client.stdout
        assert client.stdout.readline() == b"ready\n"
        client.terminate()
        rest = client.stdout.read()
    assert (client.returncode, rest) == (3, b"caught\n")
