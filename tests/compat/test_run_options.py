"""Options of ``docker run``, each proven from inside a container with the real client."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import BUSYBOX, Engine


def sh(engine: Engine, options: str, script: str) -> str:
    return engine.docker("run", "--rm", *options.split(), BUSYBOX, "sh", "-c", script).stdout


# Options, what is run inside, and a pattern of its whole output.
INSIDE = [
    ("--hostname box --domainname dom", "hostname; cat /proc/sys/kernel/domainname", "box\ndom\n"),
    ("--add-host a:1.2.3.4", "grep ^1.2.3.4 /etc/hosts", "1.2.3.4\ta\n"),
    ("--add-host gate:host-gateway", "grep gate /etc/hosts", r"\d+\.\d+\.\d+\.\d+\tgate\n"),
    ("--group-add 10 --group-add 4242", "id -G", "0 10 4242\n"),
    ("-u 1000:1001 --group-add 7", "id -u; id -g; id -G", "1000\n1001\n1001 7\n"),
    ("--userns host", "cat /proc/self/uid_map", r" +0 +0 +4294967295\n"),
    ("--shm-size 8m", "df /dev/shm | tail -1", r"shm +8192 .*\n"),
    ("--ipc none", "ls /dev/shm 2>&1; true", r"ls: /dev/shm: No such file or directory\n"),
    ("--ipc private", "df /dev/shm | tail -1", r"shm +65536 .*\n"),
    ("--sysctl net.ipv4.ip_forward=0", "cat /proc/sys/net/ipv4/ip_forward", "0\n"),
    ("--sysctl kernel.msgmax=4242", "cat /proc/sys/kernel/msgmax", "4242\n"),
    ("", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n"),
    ("--device /dev/null:/dev/mine:rw", "ls -l /dev/mine; echo x >/dev/mine", "c.* 1, +3 .*\n"),
    ("--device /dev/zero:/dev/z:r", "head -c 3 /dev/z | wc -c", "3\n"),
    ("--ulimit nofile=100:200", "ulimit -Sn; ulimit -Hn", "100\n200\n"),
    ("--read-only", "touch /x 2>&1; true", "touch: /x: Read-only file system\n"),
    ("--read-only --tmpfs /w", "touch /w/x && echo ok", "ok\n"),
    ("--tmpfs /t:size=1m,mode=700", "df /t | tail -1; stat -c %a /t", r"tmpfs +1024 .*\n700\n"),
    ("", "(echo x > /proc/sys/kernel/panic) 2>&1 | grep -c Read-only", "1\n"),
    ("", "head -c1 /proc/timer_list | wc -c", "0\n"),
    ("--security-opt systempaths=unconfined", "head -c1 /proc/timer_list | wc -c", "1\n"),
    ("", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"),
    ("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
    ("", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
    ("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
    ("--privileged", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
    ("--privileged --security-opt seccomp=builtin", "grep Seccomp: /proc/self/status", ".*2\n"),
    ("--privileged", "[ -e /dev/kmsg ] && echo ok", "ok\n"),
    ("--oom-score-adj 321", "cat /proc/self/oom_score_adj", "321\n"),
    ("--cap-drop ALL", "grep CapEff /proc/self/status", "CapEff:\t0+\n"),
    ("--cap-drop ALL --cap-add CHOWN", "grep CapEff /proc/self/status", "CapEff:\t0+1\n"),
    ("--stop-signal SIGINT", "true", ""),
    ("--network none", "ls /sys/class/net", "lo\n"),
    ("--network host", "readlink /proc/self/ns/net", None),
    ("--pid host", "readlink /proc/self/ns/pid", None),
    ("--uts host", "readlink /proc/self/ns/uts", None),
    ("--ipc host", "readlink /proc/self/ns/ipc", None),
    ("--cgroupns host", "readlink /proc/self/ns/cgroup", None),
    ("--cgroupns private", "cut -d: -f3 /proc/self/cgroup | sort -u", "/\n"),
    ("--init", "cat /proc/1/cmdline | tr '\\0' ' '", r"/sbin/docker-init -- sh -c .*"),
    ("--mac-address 02:42:ac:11:00:97", "cat /sys/class/net/eth0/address", "02:42:ac:11:00:97\n"),
    ("--dns 9.9.9.9 --dns-search x.y --dns-option ndots:3", "cat /etc/resolv.conf",
     r"(?s).*nameserver 9\.9\.9\.9\nsearch x\.y\noptions ndots:3\n.*"),
    ("-w /made/here", "pwd", "/made/here\n"),
    ("-e A=b --env C=d", "echo $A$C", "bd\n"),
    ("--entrypoint= ", "echo none", "none\n"),
    ("--annotation a=b --label l=m", "true", ""),
    ("--platform linux/amd64", "uname -m", "x86_64\n"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "script", "pattern"), INSIDE, ids=lambda item: str(item)[:60])
def test_inside(engine: Engine, options: str, script: str, pattern: str | None) -> None:
    output = sh(engine, options, script)
    if pattern is None:  # a namespace, which is to be the host's
        assert output.strip() == os.readlink(script.split()[-1])
    else:
        assert re.fullmatch(pattern, output), output


# Options that are refused, and Docker's text.
REFUSED = [
    ("--gpus all", 125, 'could not select device driver "" with capabilities: [[gpu]]'),
    ("--storage-opt size=1g", 125, "--storage-opt is supported only for overlay over xfs"),
    ("--device /dev/nonesuch", 127, "error gathering device information while adding custom"),
    ("--runtime nonesuch", 125, "unknown or invalid runtime name: nonesuch"),
    ("--link nonesuch", 125, "could not get container for nonesuch: No such container"),
    ("--pid container:nonesuch", 125, "No such container: nonesuch"),
    ("--network container:nonesuch", 125, "joining network namespace of container: No such"),
    ("--ulimit nofile=200:100", 125, "ulimit soft limit must be less than or equal"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "code", "text"), REFUSED, ids=lambda item: str(item)[:60])
def test_refused(engine: Engine, name: str, options: str, code: int, text: str) -> None:
    done = engine.docker("run", "--name", name, *options.split(), BUSYBOX, "true", check=False)
    assert done.returncode == code
    assert text in done.stderr


def test_device_directory(engine: Engine) -> None:
    assert sh(engine, "--device /dev/net:/dev/nets", "ls /dev/nets") == "tun\n"


def test_device_cgroup_rule(engine: Engine) -> None:
    script = "mknod /k c 1 11 && head -c 1 /k >/dev/null 2>&1; echo $?"
    assert sh(engine, "", script) == "1\n"
    done = engine.docker(
        *("run", "--rm", "--device-cgroup-rule", "c 1:8 r", BUSYBOX),
        *("sh", "-c", "mknod /k c 1 8 && head -c 1 /k | wc -c"),
    )
    assert done.stdout == "1\n"


def test_seccomp_profile_of_a_file(engine: Engine, tmp_path: Path) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    for more in ("", "--privileged"):
        text = sh(engine, f"{more} --security-opt seccomp={path}", "mkdir /x 2>&1; true")
        assert text == "mkdir: can't create directory '/x': Operation not permitted\n"


@pytest.fixture
def donor(running: Callable[..., str]) -> str:
    return running("--ipc", "shareable", "--hostname", "giver", BUSYBOX, "sleep", "1000")


def test_container_modes(engine: Engine, donor: str) -> None:
    engine.docker("exec", donor, "touch", "/dev/shm/given")
    assert sh(engine, f"--ipc container:{donor}", "ls /dev/shm") == "given\n"
    assert "sleep 1000" in sh(engine, f"--pid container:{donor}", "ps")
    assert sh(engine, f"--network container:{donor}", "hostname; grep -c giver /etc/hosts") == (
        "giver\n1\n"
    )


def test_private_shared_memory_is_not_joined(engine: Engine, running: Callable[..., str]) -> None:
    other = running(BUSYBOX, "sleep", "1000")
    done = engine.docker("run", "--rm", "--ipc", f"container:{other}", BUSYBOX, "true", check=False)
    assert "non-shareable IPC (hint: use IpcMode:shareable" in done.stderr


def test_links(engine: Engine, running: Callable[..., str]) -> None:
    child = running("--expose", "80", "-e", "X=y", "--hostname", "kid", BUSYBOX, "sleep", "1000")
    found = sh(engine, f"--link {child}:the-alias", "cat /etc/hosts; env; ping -c 1 the-alias")
    address = engine.inspect(child)["NetworkSettings"]["IPAddress"]
    assert f"{address}\tthe-alias kid {child}\n" in found
    assert f"THE_ALIAS_PORT=tcp://{address}:80\n" in found
    assert f"THE_ALIAS_PORT_80_TCP_ADDR={address}\n" in found
    assert "THE_ALIAS_ENV_X=y\n" in found
    assert "1 packets received" in found


def test_a_link_follows_a_container_that_starts_anew(
    engine: Engine, running: Callable[..., str]
) -> None:
    child = running("--stop-timeout", "0", BUSYBOX, "sleep", "1000")
    parent = running("--link", f"{child}:kid", BUSYBOX, "sleep", "1000")
    engine.docker("stop", child)
    running(BUSYBOX, "sleep", "1000")  # takes the address
    engine.docker("start", child)
    address = engine.inspect(child)["NetworkSettings"]["IPAddress"]
    assert f"{address}\tkid " in engine.docker("exec", parent, "cat", "/etc/hosts").stdout


def test_init_reaps_orphans(engine: Engine) -> None:
    # They end after their parent, and are in /proc until somebody has waited for them.
    orphans = "sh -c 'sleep 0.1 & echo $! >>/pids; sleep 0.1 & echo $! >>/pids'"
    script = (
        f"{orphans}; for pid in $(cat /pids); do"
        " n=0; while [ -d /proc/$pid ] && [ $((n += 1)) -lt 200 ]; do sleep 0.05; done;"
        " [ -d /proc/$pid ] || echo reaped; done"
    )
    assert sh(engine, "--init", script) == "reaped\nreaped\n"


def test_init_ends_like_the_program(engine: Engine) -> None:
    for script, code in (("exit 7", 7), ("kill -9 $$", 137)):
        done = engine.docker("run", "--rm", "--init", BUSYBOX, "sh", "-c", script, check=False)
        assert done.returncode == code


def test_a_link_is_removed_alone(engine: Engine, running: Callable[..., str]) -> None:
    child = running(BUSYBOX, "sleep", "1000")
    parent = running("--link", f"{child}:kid", BUSYBOX, "sleep", "1000")
    assert engine.inspect(parent)["HostConfig"]["Links"] == [f"/{child}:/{parent}/kid"]
    engine.docker("rm", "--link", f"{parent}/kid")
    assert engine.inspect(parent)["HostConfig"]["Links"] is None
    assert engine.status(child) == "running"


def test_attach_and_start_at_once_share_a_shim(engine: Engine, name: str) -> None:
    for _ in range(5):
        engine.docker("create", "--name", name, "-i", BUSYBOX, "cat")
        with engine.hijack(f"/containers/{name}/attach?stream=1&stdin=1&stdout=1"):
            assert engine.api("POST", f"/containers/{name}/start").status == 204
        engine.docker("rm", "-f", name)


def test_exec_output_is_framed_as_its_start_asks(
    engine: Engine, running: Callable[..., str]
) -> None:
    container = running(BUSYBOX, "sleep", "1000")
    body = {"Cmd": ["echo", "hi"], "AttachStdout": True, "Tty": True}
    made = engine.api("POST", f"/containers/{container}/exec", body).json()["Id"]
    with engine.hijack(f"/exec/{made}/start", {"Tty": False}) as stream:
        frames = list(stream.frames())
    # The terminal writes the line's end on its own, so that one may come before the other.
    assert {number for number, _ in frames} == {1}
    assert b"".join(data for _, data in frames) == b"hi\r\n"
