"""The runtime: further processes in a container, terminals, seccomp and hooks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime import leftovers
from tests.polling import until
from tests.root.runtime_lab import Box, Driver, Failed

HOOK = '#!/bin/sh\n{{ echo "{name} $(cat)"; env; pwd; }} >>{log}\n'


def test_exec_is_in_all_namespaces_and_the_cgroup(box: Box) -> None:
    box.start("sleep", "100")
    script = (
        "for n in pid net ipc uts mnt cgroup; do"
        " [ $(readlink /proc/1/ns/$n) = $(readlink /proc/$$/ns/$n) ] || echo $n; done;"
        "cut -d: -f3 /proc/self/cgroup | sort -u; hostname"
    )
    assert box.exec("sh", "-c", script).output.split() == ["/", "box"]


def test_exec_after_exec_and_its_exit_code(box: Box) -> None:
    box.start("sleep", "100")
    for code in (0, 3, 200):
        assert box.exec("sh", "-c", f"exit {code}").code == code
    assert box.exec("sh", "-c", "kill -TERM $$").code == 143


def test_exec_has_its_own_settings(box: Box) -> None:
    (box.rootfs / "work").mkdir()
    box.start("sleep", "100")
    result = box.exec(
        *("sh", "-c", "id -u; id -G; pwd; echo $A; grep CapEff /proc/self/status"),
        user={"uid": 5, "gid": 6, "additionalGids": [7]},
        cwd="/work",
        env=["PATH=/bin", "A=b"],
        capabilities=None,
    )
    lines = result.output.splitlines()
    assert lines[:4] == ["5", "6 7", "/work", "b"]
    assert int(lines[4].split()[1], 16) == 0


def test_exec_in_a_container_that_has_ended(box: Box) -> None:
    box.start("true")
    box.ask("wait")
    with pytest.raises(Failed, match="container not running"):
        box.exec("true")


def test_exec_in_a_paused_container(box: Box) -> None:
    box.start("sleep", "100")
    box.ask("pause")
    with pytest.raises(Failed, match="paused container"):
        box.exec("true")
    box.ask("resume")
    assert box.exec("true").code == 0


@pytest.mark.parametrize("number", range(3, 12))
def test_exec_cwd_by_a_leaked_descriptor(box: Box, number: int) -> None:
    box.start("sleep", "100")
    box.driver.ask("leak", count=1)
    with pytest.raises(Failed):
        box.exec("true", cwd=f"/proc/self/fd/{number}")


def test_nothing_of_the_runtime_is_open_to_the_container(box: Box) -> None:
    """CVE-2016-9962: a container's root watches for the joining process and looks into it."""
    everything = list(spec_capabilities())
    box.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    watcher = (
        "while true; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in"
        " */busybox) ;; '') ;; *) echo got $p $(readlink $p/exe) >>/got;; esac; done; done"
    )
    box.start("sh", "-c", watcher)
    for _ in range(30):
        box.exec("true")
    box.ask("kill")
    box.ask("wait")
    assert not (box.rootfs / "got").exists()


def spec_capabilities() -> list[str]:
    """Docker's defaults, which include CAP_DAC_OVERRIDE; not CAP_SYS_PTRACE."""
    return [
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD"),
        *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_SYS_CHROOT"),
    ]


def test_terminal(box: Box) -> None:
    box.process["terminal"] = True
    box.process["consoleSize"] = {"height": 33, "width": 99}
    output = box.sh("tty; stty size; ls -l /dev/console; echo x >/dev/tty")
    lines = output.replace("\r", "").splitlines()
    assert lines[:2] == ["/dev/pts/0", "33 99"]
    assert "136,   0" in lines[2]
    assert lines[3] == "x"


def test_terminal_of_an_exec(box: Box) -> None:
    box.start("sleep", "100")
    result = box.exec(
        "sh", "-c", "tty; stty size", terminal=True, consoleSize={"height": 5, "width": 6}
    )
    assert result.output.split() == ["/dev/pts/0", "5", "6"]


SECCOMP: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
}


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_seccomp(box: Box, *, no_new_privileges: bool) -> None:
    box.linux["seccomp"] = SECCOMP
    box.process["noNewPrivileges"] = no_new_privileges
    box.process["user"] = {"uid": 1, "gid": 1}
    output = box.sh("mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status")
    assert "Permission denied" in output
    assert output.split()[-1] == "2"


def test_seccomp_that_allows_little_more_than_execve(box: Box) -> None:
    """With no_new_privs the filter is the last thing before the program."""
    calls = ["execve", "exit", "exit_group", "arch_prctl", "set_tid_address", "brk", "prctl"]
    calls += ["getuid", "getpid", "getppid", "rt_sigaction", "readlink", "prlimit64", "mprotect"]
    calls += ["set_robust_list", "rseq", "getrandom", "mmap", "write", "uname", "newfstatat"]
    box.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ALLOW"}],
    }
    box.process["noNewPrivileges"] = True
    result = box.run("echo", "alive")
    assert (result.code, result.output) == (0, "alive\n")


def hooks(box: Box, *names: str) -> Path:
    log = box.directory / "hooks.log"
    script = box.directory / "hook"
    box.config["hooks"] = {}
    for name in names:
        path = script.with_name(f"hook-{name}")
        path.write_text(HOOK.format(name=name, log=log))
        path.chmod(0o755)
        box.config["hooks"][name] = [{"path": str(path), "args": ["hook", name], "env": ["A=b"]}]
    return log


def test_hooks_of_the_runtime(box: Box) -> None:
    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    log = hooks(box, *names)
    pid = box.start("sleep", "100")
    box.ask("delete")
    lines = log.read_text().splitlines()
    states = [line.partition(" ") for line in lines if line.startswith(names)]
    assert [name for name, _, _ in states] == list(names)
    documents = {name: json.loads(text) for name, _, text in states}
    assert documents["createRuntime"]["pid"] == documents["createContainer"]["pid"] == pid
    assert [documents[name]["status"] for name in names] == [
        *("creating", "creating", "creating", "running", "stopped")
    ]
    variables = {line.partition("=")[0] for line in lines if "=" in line}
    assert variables <= {"A", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "/" in lines


def test_start_container_hook_runs_inside(box: Box) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "hostname >/hooked; cat >>/hooked"]}
    box.config["hooks"] = {"startContainer": [hook]}
    output = box.sh("cat /hooked")
    assert output.splitlines()[0] == "box"
    assert json.loads(output.splitlines()[1])["id"] == box.id


def test_hook_that_hangs_or_fails(box: Box) -> None:
    box.config["hooks"] = {
        "createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]
    }
    with pytest.raises(Failed, match="hook ran past specified timeout of 1s"):
        box.create()
    command = ["sh", "-c", "echo broken; exit 3"]
    box.config["hooks"] = {"prestart": [{"path": "/bin/sh", "args": command}]}
    with pytest.raises(
        Failed, match="error running prestart hook #0: exit status 3, output: broken"
    ):
        box.create()


def test_dead_parent_takes_its_children_along(box: Box) -> None:
    """A shim that dies before start leaves no init behind."""
    ours, box.driver = box.driver, Driver()
    pid = box.create("sleep", "100")
    box.driver.process.kill()
    box.driver.process.wait()
    until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "init to die with its parent")
    leftovers.clean(box.id, box.state_root, box.linux["cgroupsPath"])
    for pipe in (box.driver.process.stdin, box.driver.process.stdout):
        assert pipe is not None
        pipe.close()
    box.driver = ours
