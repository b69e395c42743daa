"""The runtime: an exec by a script of system calls and one by a fork of Python are the same.

Each question is asked both ways; what the kernel says of the two processes, and the words of each
failure, must not differ.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from runtime import callscript
from tests.root.runtime_lab import Box, Failed

pytestmark = pytest.mark.skipif(not callscript.SUPPORTED, reason="no machine code for this")

CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_KILL"]
ABOUT = """
grep -v -E '^(Pid|Tgid|NSpid|NStgid|NSsid|NSpgid|PPid|Vm|Rss|Hugetlb|vol|nonvol|x86_Thread)' \
    /proc/self/status
cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj /proc/self/timerslack_ns
cat /proc/self/personality /proc/self/coredump_filter
cut -d' ' -f 7,18,19,40,41 /proc/$$/stat
echo session $(cut -d' ' -f6 /proc/$$/stat) of $$ | sed s/$$/me/g
tr '\\0' '\\n' </proc/$$/environ
umask; pwd; id; cat /proc/$$/cmdline
for link in /proc/$$/fd/* /proc/$$/ns/* /proc/$$/root /proc/$$/exe; do readlink $link; done
"""
LIMIT = {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
}


def both(box: Box, *args: str, **process: Any) -> tuple[str, str]:
    found = []
    for by_fork in (False, True):
        try:
            result = box.exec(*args, by_fork=by_fork, **process)
        except Failed as error:
            found.append(f"failed: {error}")
        else:
            found.append(f"{result.code}\n{result.output}")
    return found[0], found[1]


@pytest.fixture
def running(box: Box) -> Box:
    (box.rootfs / "etc").mkdir(exist_ok=True)
    (box.rootfs / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"
    )
    (box.rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\nmany:x:7:user\nten:x:10:user\n")
    (box.rootfs / "private").mkdir(mode=0o700)
    (box.rootfs / "work").mkdir()
    (box.rootfs / "plain").write_text("no program\n")
    (box.rootfs / "broken").write_text("#!/no/such/interpreter\n")
    (box.rootfs / "broken").chmod(0o755)
    box.process["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted"), CAPABILITIES
    )
    box.start("sleep", "100")
    return box


@pytest.mark.parametrize(
    "process",
    [
        {},
        {"user": {"username": "user"}, "cwd": "/work"},
        {"user": {"username": "user:ten"}, "cwd": "/private"},
        {"user": {"username": "12345"}, "env": ["PATH=/bin", "HOME=/elsewhere", "A=b c", "B="]},
        {"user": {"uid": 5, "gid": 6, "additionalGids": [7, 8, 9], "umask": 0o77}},
        {"capabilities": None},
        {
            "capabilities": {
                each: ["CAP_KILL"] for each in ("bounding", "permitted", "inheritable", "ambient")
            }
        },
        {"noNewPrivileges": True, "rlimits": [LIMIT], "oomScoreAdj": 321},
        {"scheduler": {"policy": "SCHED_BATCH", "nice": 5}},
        {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}},
        {"execCPUAffinity": {"final": "0"}},
    ],
    ids=lambda process: ",".join(process) or "default",
)
def test_the_kernel_says_the_same(running: Box, process: dict[str, Any]) -> None:
    ours, theirs = both(running, "sh", "-c", ABOUT, **process)
    assert ours.startswith("0\n")
    assert ours.splitlines() == theirs.splitlines()
    assert "CapEff" in ours


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_seccomp(box: Box, *, no_new_privileges: bool) -> None:
    box.linux["seccomp"] = SECCOMP
    box.start("sleep", "100")
    ours, theirs = both(
        *(box, "sh", "-c", "mkdir /tmp/x; grep -E 'Seccomp|NoNew' /proc/self/status"),
        noNewPrivileges=no_new_privileges,
    )
    assert ours == theirs
    assert "Operation not permitted" in ours
    assert re.search(r"Seccomp:\s*2", ours)


def test_terminal(running: Box) -> None:
    ours, theirs = both(
        *(running, "sh", "-c", f"tty; stty size; ls -l $(tty) | cut -c 1-30; {ABOUT}"),
        terminal=True,
        consoleSize={"height": 5, "width": 6},
        user={"username": "user"},
    )
    assert ours == theirs
    assert "/dev/pts/0" in ours
    assert "5 6" in ours


@pytest.mark.parametrize(
    ("args", "process"),
    [
        (["nosuchthing"], {}),
        (["/no/such/thing"], {}),
        (["/plain"], {}),
        (["/plain/x"], {}),
        (["/broken"], {}),
        (["/work"], {}),
        (["/bin/"], {}),
        ([""], {}),
        (["plain"], {"env": ["PATH=/:/bin"]}),
        (["work"], {"env": ["PATH=/"]}),
        (["sh"], {"env": ["A=b"]}),
        (["sh"], {"env": ["A=b"], "cwd": "/bin"}),
        (["broken"], {"env": ["PATH=/work:/"]}),
        (["/bin/true"], {"cwd": "/nowhere"}),
        (["/bin/true"], {"cwd": "/plain"}),
        (["/bin/true"], {"cwd": "/private/x", "user": {"uid": 7, "gid": 7}, "capabilities": None}),
        (["/bin/true"], {"execCPUAffinity": {"final": "5-2"}}),
        (["/bin/true"], {"cwd": "/private", "user": {"uid": 7, "gid": 7}, "capabilities": None}),
        (["/private/x"], {"user": {"uid": 7, "gid": 7}, "capabilities": None}),
        (["/bin/true"], {"user": {"username": "nobody-here"}}),
        (["/bin/true"], {"user": {"username": "user:nothing"}}),
        (["/bin/true"], {"user": {"username": "4294967296"}}),
        (["/bin/true"], {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}]}),
        (["/bin/true"], {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1 << 40}]}),
        (["/bin/true"], {"scheduler": {"policy": "SCHED_FIFO", "priority": 1000}}),
    ],
    ids=lambda value: json.dumps(value),
)
def test_the_words_are_the_same(running: Box, args: list[str], process: dict[str, Any]) -> None:
    ours, theirs = both(running, *args, **process)
    assert ours == theirs


def test_what_does_not_fit_goes_the_other_way(running: Box) -> None:
    """More groups, or a longer home, than a script has room for."""
    groups = list(range(1000, 1400))
    ours, theirs = both(running, "id", "-G", user={"uid": 0, "gid": 0, "additionalGids": groups})
    assert ours == theirs
    assert ours.split()[-1] == "1399"
    (running.rootfs / "etc/passwd").write_text(f"root:x:0:0::/{'x' * 3000}:/bin/sh\n")
    ours, theirs = both(running, "sh", "-c", "echo ${#HOME}")
    assert ours == theirs == "0\n3001\n"


def test_a_long_command_line(running: Box) -> None:
    """Longer than a message between processes, and longer than the kernel takes."""
    long = [str(number) * 20 for number in range(10_000)]
    ours, theirs = both(running, "sh", "-c", "echo $#", "x", *long)
    assert ours == theirs == "0\n10000\n"
    ours, theirs = both(running, "true", "x" * 200_000)
    assert ours == theirs
    assert "argument list too long" in ours


def test_the_shim_opens_nothing_but_files(running: Box) -> None:
    """It is not in the container's cgroup, which would keep it from opening a device."""
    wait = "rm /etc/passwd; mkfifo /etc/passwd; echo >/made; echo x >/etc/passwd; echo >/opened"
    writer = running.exec("sh", "-c", f"({wait}) & while [ ! -e /made ]; do :; done")
    assert writer.code == 0
    for user in ({"uid": 0, "gid": 0}, {"username": "0"}):
        assert running.exec("true", user=user).code == 0
    assert not (running.rootfs / "opened").exists()
    with (running.rootfs / "etc/passwd").open("rb") as fifo:
        assert fifo.read() == b"x\n"  # so that it had waited


def test_a_long_passwd_file_is_read_elsewhere(running: Box) -> None:
    with (running.rootfs / "etc/passwd").open("a") as file:
        file.write("x:x:3:3::/:\n" * 10_000 + "last:x:77:77::/last:/bin/sh\n")
    ours, theirs = both(running, "sh", "-c", "id -u; echo $HOME", user={"username": "last"})
    assert ours == theirs == "0\n77\n/last\n"


def test_a_terminal_larger_than_the_kernel_knows(running: Box) -> None:
    ours, theirs = both(
        *(running, "stty", "size"), terminal=True, consoleSize={"height": 70_000, "width": 7}
    )
    assert ours == theirs == f"0\n{70_000 & 0xFFFF} 7\n"


def test_failures_leave_no_descriptor(running: Box) -> None:
    descriptors = Path(f"/proc/{running.driver.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for process in ({}, {"terminal": True}, {"cwd": "/no"}, {"user": {"username": "nobody-here"}}):
        with pytest.raises(Failed):
            running.exec("/no/such/thing", **process)
    assert len(list(descriptors.iterdir())) == before
