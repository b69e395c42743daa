"""The default profile against a real Docker Engine: each system call's errno under both.

Needs gcc, and LONGSHORE_ORACLE: the address (unix:///...) of an engine with an image "busybox".
it.
"""

from __future__ import annotations

import errno
import io
import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

import docker
import pytest

from lifecycle import capabilities, seccomp_profile
from runtime import seccomp, spec, syscalls
from runtime.capabilities import mask

ORACLE = os.environ.get("LONGSHORE_ORACLE")
pytestmark = [
    pytest.mark.skipif(not ORACLE, reason="LONGSHORE_ORACLE is not set"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the probe is for x86-64"),
]

# Arguments of -1 make nearly every call fail at once; each is made in a process of its own.
PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>

static long x86(long number) {
    long result;
    __asm__ volatile("push %%rbp; mov $-1, %%ebp; int $0x80; pop %%rbp" : "=a"(result)
        : "a"(number), "b"(-1), "c"(-1), "d"(-1), "S"(-1), "D"(-1)
        : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static void probe(const char *abi, long number) {
    int ends[2], answer = -1;
    pipe(ends);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        alarm(1);
        long result = abi[1] == '8' ? x86(number) : syscall(number, -1, -1, -1, -1, -1, -1);
        answer = abi[1] == '8' ? (result < 0 ? -result : 0) : (result == -1 ? errno : 0);
        write(ends[1], &answer, sizeof answer);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &answer, sizeof answer) != sizeof answer)
        answer = -1;
    close(ends[0]);
    waitpid(pid, 0, 0);
    printf("%s %ld %d\n", abi, number, answer);
    fflush(stdout);
}

int main(void) {
    for (long number = 0; number <= 600; number++) {
        probe("x64", number);
        probe("x32", 0x40000000L + number);
        probe("x86", number);
    }
    probe("x64", 0xffffffffL);
    return 0;
}
"""
# One deliberate difference is by arguments that the probe does not use: socket(AF_ALG).


def comparable(line: str) -> tuple[str, str, str]:
    """Libraries differ in which new calls they know on x32: there, refused is refused."""
    abi, number, answer = line.split()
    if abi == "x32" and answer == str(errno.EPERM):
        answer = str(errno.ENOSYS)
    return abi, number, answer


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("probe")
    (directory / "probe.c").write_text(PROBE)
    command = ["gcc", "-O1", "-w", "-static", "-o", "probe", "probe.c"]
    subprocess.run(command, cwd=directory, check=True)
    return directory / "probe"


def under_docker(probe: Path) -> str:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(probe, "probe")
    client = docker.DockerClient(base_url=ORACLE)
    container = client.containers.create("busybox", ["/probe"], network_mode="none")
    try:
        container.put_archive("/", archive.getvalue())
        container.start()
        assert container.wait()["StatusCode"] == 0
        return str(container.logs(stderr=False).decode())
    finally:
        container.remove(force=True)
        client.close()


def under_our_filter(probe: Path) -> str:
    granted = capabilities.adjust([], [])
    profile = spec.parse_seccomp(seccomp_profile.default_profile(granted))
    program = seccomp.compile(profile)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(theirs, 1)
            os.setsid()
            syscalls.unshare(syscalls.CLONE_NEWIPC)  # msgget makes a queue
            os.chdir("/")
            seccomp.install(program, seccomp.flags(profile))
            bits = mask(granted)
            for number in range(64):
                if not bits >> number & 1:
                    try:
                        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
                    except OSError:
                        break
            syscalls.capset(bits, bits, 0)
            os.execv(probe, ["/probe"])
        finally:
            os._exit(99)
    os.close(theirs)
    with os.fdopen(ours) as output:
        text = output.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


def test_every_call_answers_as_under_docker(probe: Path) -> None:
    expected = [comparable(line) for line in under_docker(probe).splitlines()]
    found = [comparable(line) for line in under_our_filter(probe).splitlines()]
    assert len(found) == 3 * 601 + 1
    assert [(a, b) for a, b in zip(expected, found, strict=True) if a != b] == []
