"""What containers can do at the very moment when a process of the runtime is between two steps.

Each race runs a bounded number of rounds; LONGSHORE_RACE_ROUNDS multiplies them.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from runtime import capabilities
from tests.archives import CHECKOUT
from tests.root.runtime_lab import Box, Failed
from tests.root.swapper import Swapper

FACTOR = int(os.environ.get("LONGSHORE_RACE_ROUNDS", "1"))
DOCKERS = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD"),
    *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_SYS_CHROOT"),
]
pytestmark = pytest.mark.timeout(60 * FACTOR)


@pytest.mark.parametrize("more", [[], ["CAP_SYS_PTRACE"]], ids=["default", "ptrace"])
def test_exec_brings_nothing_along(box: Box, tmp_path: Path, more: list[str]) -> None:
    """CVE-2016-9962, and what CAP_SYS_PTRACE sees of a process that joins a container."""
    canary = tmp_path / "canary"
    canary.touch()
    allowed = DOCKERS + more
    box.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), allowed)
    lend_interpreter(box)
    script = (CHECKOUT / "tests/root/intruder.py").read_text()
    (box.rootfs / "intruder.py").write_text(script)
    interpreter = os.path.realpath(sys.executable)
    box.start(interpreter, "-S", "-E", "/intruder.py", str(canary), str(10 * FACTOR))
    report = box.output
    box.output = tmp_path / "output-of-execs"
    execs = 0
    # Which of them it catches is chance.
    while execs < 25 * FACTOR or not (box.rootfs / "enough").exists():
        assert box.exec("true").code == 0
        execs += 1
    (box.rootfs / "stop").touch()
    written, box.output = box.output, report
    assert box.ask("wait")["code"] == 0
    got = json.loads(report.read_text())
    if more:  # what it caught was no more than itself
        mask = f"{capabilities.mask(tuple(allowed)):016x}"
        assert set(got.pop("capabilities", ())) <= {mask}
        harmless = {"/dev/null", str(written), "socket:", "pipe:", "anon_inode:"}
        assert set(got.pop("files", ())) <= harmless
    assert got == {}


def lend_interpreter(box: Box) -> None:
    places = ["/lib", "/lib64", "/usr"]
    if not sys.base_prefix.startswith("/usr"):
        places.append(sys.base_prefix)
    for place in places:
        if os.path.isdir(place):
            box.mount(place, place, "rbind", "ro")
    box.process["env"] = ["PATH=/bin", f"LD_LIBRARY_PATH={sys.base_prefix}/lib"]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of the host's that links of the image lead to."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("host")
    (directory / "file").chmod(0o600)
    return directory


def unharmed(victim: Path) -> bool:
    file = victim / "file"
    same = (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("host", 0o600)
    return same and [path.name for path in victim.iterdir()] == ["file"]


def rounds(box: Box, number: int, *args: str) -> list[str]:
    """Outputs of as many starts; a race may also make one fail."""
    outputs = []
    for _ in range(number * FACTOR):
        try:
            outputs.append(box.run(*args).output)
        except Failed:
            with suppress(Failed):
                box.ask("delete")
    return outputs


def test_mount_targets_that_become_links(box: Box, victim: Path, tmp_path: Path) -> None:
    """CVE-2021-30465: a sibling with the same volume swaps the directory for a link."""
    volume, inner = tmp_path / "volume", tmp_path / "inner"
    (volume / "dir").mkdir(parents=True)
    inner.mkdir()
    (volume / "link").symlink_to(victim)
    box.mount("/volume", volume, "rbind")
    box.mount("/volume/dir/sub", inner, "rbind")
    box.mount("/volume/dir/new", "tmpfs", type_="tmpfs")
    with Swapper(volume / "dir", volume / "link"):
        outputs = rounds(box, 25, "sh", "-c", "cat /proc/self/mounts")
    assert unharmed(victim)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert outputs
    for output in outputs:
        places = [line.split()[1] for line in output.splitlines()]
        assert [place for place in places if place.endswith("/sub")]


def test_devices_that_become_links(box: Box, victim: Path, tmp_path: Path) -> None:
    """A node that exists gets its mode, not what it is swapped for: --device with a volume."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mknod(volume / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (volume / "link").symlink_to(victim / "file")
    box.mount("/volume", volume, "rbind")
    box.linux["devices"] = [
        {"path": "/volume/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}
    ]
    with Swapper(volume / "null", volume / "link"):
        rounds(box, 25, "true")
    assert unharmed(victim)


def test_masks_with_a_null_device_of_the_image(box: Box, victim: Path) -> None:
    """CVE-2025-31133: without a /dev of its own, an image's /dev/null is what it likes."""
    without_dev(box)
    os.mknod(box.rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (box.rootfs / "dev/link").symlink_to("/proc/sys/kernel/core_pattern")
    (box.rootfs / "dev/file").symlink_to(victim / "file")
    masked = [path for path in ("/proc/kcore", "/proc/keys") if Path(path).exists()]
    assert masked
    script = (
        f"stat -c %t:%T {' '.join(masked)};"
        " (: >>/proc/sys/kernel/core_pattern) 2>&- && echo writable; true"
    )
    outputs = []
    for link in ("link", "file"):
        with Swapper(box.rootfs / "dev/null", box.rootfs / "dev" / link):
            outputs += rounds(box, 12, "sh", "-c", script)
    assert unharmed(victim)
    assert [output.split() for output in outputs] == [["1:3"] * len(masked)] * len(outputs)
    assert outputs


def test_console_that_becomes_a_link(box: Box) -> None:
    """CVE-2025-52565."""
    without_dev(box)
    (box.rootfs / "dev/console").touch()
    (box.rootfs / "etc/precious").touch()
    (box.rootfs / "dev/link").symlink_to("../etc/precious")
    box.process["terminal"] = True
    with Swapper(box.rootfs / "dev/console", box.rootfs / "dev/link"):
        outputs = rounds(box, 15, "sh", "-c", "grep -c precious /proc/self/mountinfo; tty")
    assert [output.split() for output in outputs] == [["0", "/dev/pts/0"]] * len(outputs)


def without_dev(box: Box) -> None:
    """With the image's /dev, as a configuration without Docker's tmpfs has it."""
    hidden = ("/dev", "/dev/shm")
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] not in hidden]


def test_working_directory_that_becomes_a_link(box: Box, victim: Path, tmp_path: Path) -> None:
    """CVE-2024-45310: directories are made in the container only."""
    volume = tmp_path / "volume"
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(victim)
    box.mount("/volume", volume, "rbind")
    box.process["cwd"] = "/volume/dir/a/b"
    with Swapper(volume / "dir", volume / "link"):
        outputs = rounds(box, 20, "pwd")
    assert unharmed(victim)
    assert outputs
