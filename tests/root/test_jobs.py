"""The zygote's jobs on containers whose files are made to deceive them."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shim.protocol import Connection, Message, close_all
from tests.archives import Layer
from tests.polling import until
from tests.root.shim_lab import Lab, Shim
from tests.root.swapper import Swapper

ROUNDS = 150
# What a careless process opens on its way: a FIFO holds it there for ever.
TRAPS = (
    *("etc/nsswitch.conf", "etc/localtime", "etc/ld.so.cache", "etc/ld.so.preload"),
    *("lib/x86_64-linux-gnu/libnss_files.so.2", "lib/libnss_files.so.2", "lib64/libnss_dns.so.2"),
    *("usr/lib/x86_64-linux-gnu/gconv/gconv-modules", "usr/lib/locale/locale-archive"),
    *("usr/lib/python3.11/encodings/idna.py", "usr/bin/xz", "usr/bin/unpigz", "usr/bin/tar"),
)


class JobLab(Lab):
    spares = False  # whether its jobs have waited for their requests


@pytest.fixture(params=[False, True], ids=["forked", "spare"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobLab]:
    lab = JobLab(tmp_path_factory.mktemp("jobs"))
    lab.spares = request.param
    yield lab
    lab.close()


def forked(lab: Lab, request: Message, fds: list[int]) -> int:
    lab.control.send({**request, "exec_root": str(lab.exec_root)}, fds)
    answer, received = lab.control.recv()
    close_all(received)
    return int(answer["pid"])


def spare(lab: Lab) -> tuple[int, Connection]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return forked(lab, {"op": "spare-job"}, [theirs.fileno()]), Connection(ours)


class Job:
    """One job of the lab's zygote, with a stream if it has one."""

    def __init__(
        self, lab: JobLab, kind: str, view: Message, arguments: Message, fds: list[int]
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"kind": kind, "id": "ab" * 32, "view": view, "arguments": arguments}
        ours.settimeout(20)
        self.control = Connection(ours)
        with theirs:
            fds = [theirs.fileno(), *fds]
            if lab.spares:
                self.pid, waiting = spare(lab)
                waiting.send(request, fds)
                waiting.close()
            else:
                self.pid = forked(lab, {"op": "job", **request}, fds)

    def answer(self) -> Message:
        with self.control.socket:
            return self.control.recv()[0]

    def ended(self) -> bool:
        return not Path(f"/proc/{self.pid}").exists()


def running(shim: Shim) -> tuple[Message, list[int]]:
    pid = int(shim.subscribe()["pid"])
    return {"running": True, "hidden": ["/proc", "/sys", "/dev"]}, [os.pidfd_open(pid)]


def stopped(lab: JobLab, work: Path, **fields: Any) -> Message:
    """An overlay on the lab's root file system."""
    for name in ("upper", "work"):
        (work / name).mkdir(parents=True, exist_ok=True)
    layers = (f"lowerdir={lab.rootfs}", f"upperdir={work}/upper", f"workdir={work}/work")
    root = {"destination": "/", "type": "overlay", "source": "overlay", "options": list(layers)}
    scratch = lab.directory / "scratch"
    scratch.mkdir(exist_ok=True)
    return {
        "running": False,
        "scratch": str(scratch),
        "root": root,
        "mounts": [],
        "readonly": False,
        **fields,
    }


def get(lab: JobLab, view: Message, fds: list[int], path: str) -> tuple[Message, bytes]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            job = Job(
                lab,
                "get",
                view,
                {"path": path, "ref": "x", "chunked": False},
                [theirs.fileno(), *fds],
            )
        data = b""
        while piece := ours.recv(1 << 16):
            data += piece
    return job.answer(), data


def put(lab: JobLab, view: Message, fds: list[int], path: str, tar: bytes, **more: Any) -> Message:
    ours, theirs = socket.socketpair()
    arguments = {
        "path": path,
        "ref": "x",
        "no_overwrite_dir_non_dir": False,
        "copy_uid_gid": False,
        "user": "",
        "chunked": False,
        **more,
    }
    with ours:
        with theirs:
            job = Job(lab, "put", view, arguments, [theirs.fileno(), *fds])
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the job may know from the path alone
            ours.sendall(tar)
            ours.shutdown(socket.SHUT_WR)
        return job.answer()


@pytest.mark.timeout(120)
def test_exchanged_links_never_lead_out(lab: JobLab, tmp_path: Path) -> None:
    """CVE-2018-15664: a directory that becomes a link between the look and the use."""
    canary = tmp_path / "file"
    canary.write_text("host")
    (lab.rootfs / "swap").mkdir()
    (lab.rootfs / "swap/file").write_text("container")
    (lab.rootfs / "swap/sub").mkdir()
    (lab.rootfs / "trap").symlink_to(tmp_path)
    view, fds = running(lab.run("sleep", "1000"))
    inner = Layer().file("file", "container").file("sub/file", "container").tar()
    outer = Layer().file("swap/file", "container").file("swap/sub/file", "container").tar()
    codes = set()
    with Swapper(lab.rootfs / "swap", lab.rootfs / "trap"):
        for _ in range(ROUNDS // 3):
            answer, data = get(lab, view, fds, "/swap/file")
            assert b"host" not in data
            codes.add("ok" if "ok" in answer else answer["error"]["code"])
            answer, data = get(lab, view, fds, "/swap/.")
            assert b"host" not in data
            put(lab, view, fds, "/swap", inner)
            put(lab, view, fds, "/", outer)
    close_all(fds)
    assert (canary.read_text(), [path.name for path in tmp_path.iterdir()]) == ("host", ["file"])
    assert "ok" in codes


def test_nothing_of_the_container_is_loaded(lab: JobLab) -> None:
    """CVE-2019-14271, CVE-2026-41567: libraries, codecs and programs of the image are not ours."""
    for trap in TRAPS:
        path = lab.rootfs / trap
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    (lab.rootfs / "etc/group").unlink()
    os.mkfifo(lab.rootfs / "etc/group")
    view, fds = running(lab.run("sleep", "1000"))
    layer = Layer().file("päth", "x").symlink("link", "päth").directory("dir")
    assert put(lab, view, fds, "/home", layer.tar()) == {"ok": {}}
    owned = put(lab, view, fds, "/home", layer.tar(), copy_uid_gid=True, user="postgres")
    assert owned == {"ok": {}}
    assert (lab.rootfs / "home/link").lstat().st_uid == 70
    answer, data = get(lab, view, fds, "/")
    assert answer == {"ok": {}}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("/etc/localtime").isfifo()
    error = put(lab, view, fds, "/home", b"\xfd7zXZ\0" + bytes(1024))["error"]
    assert error["message"] == "archive/tar: invalid tar header"
    close_all(fds)


def test_a_fake_proc_is_not_entered(lab: JobLab, tmp_path: Path) -> None:
    """A procfs that the container got from elsewhere has no way to the job's own descriptors."""
    view, fds = running(
        lab.run("sleep", "1000", rootfs_mounts=[], config={"root": {"readonly": False}})
    )
    secret = tmp_path / "secret"
    secret.write_text("host")
    for path in ("/proc/self/root/etc/passwd", "/proc/1/root", "/proc/self/fd/0"):
        answer, _ = get(lab, view, fds, path)
        assert answer["error"]["code"] == "not_found", path
    close_all(fds)
    bind = {"type": "bind", "source": "/proc", "destination": "/host", "options": ["rbind", "ro"]}
    view = stopped(lab, tmp_path / "overlay", mounts=[bind])
    for path in ("/host/1/root/etc/passwd", "/host/self/root", "/host/self/exe/x"):
        answer, data = get(lab, view, [], path)
        assert "error" in answer or b"root:" not in data, path


def test_a_closed_control_socket_ends_the_job(lab: JobLab, tmp_path: Path) -> None:
    view = stopped(lab, tmp_path / "overlay")
    ours, theirs = socket.socketpair()
    arguments = {
        "path": "/",
        "ref": "x",
        "no_overwrite_dir_non_dir": False,
        "copy_uid_gid": False,
        "user": "",
        "chunked": False,
    }
    with ours, theirs:
        job = Job(lab, "put", view, arguments, [theirs.fileno()])
        ours.sendall(b"x")
        assert not job.ended()
        job.control.close()
        until(job.ended, "the job to end")


def test_readers_leave_a_stopped_container_alone(lab: JobLab, tmp_path: Path) -> None:
    """Not even a mount point is made where nothing is to be written."""
    work = tmp_path / "overlay"
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("x")
    bind = {
        "type": "bind",
        "source": str(tmp_path / "volume"),
        "destination": "/new/mount",
        "options": ["rbind", "rprivate"],
    }
    view = stopped(lab, work, mounts=[bind])
    answer, data = get(lab, view, [], "/new/mount/file")
    assert answer == {"ok": {}}
    assert data
    assert list((work / "upper").iterdir()) == []
    assert put(lab, view, [], "/new/mount", Layer().file("more", "y").tar()) == {"ok": {}}
    assert (tmp_path / "volume/more").read_text() == "y"


def test_a_request_for_nonsense_is_answered(lab: JobLab, tmp_path: Path) -> None:
    job = Job(lab, "format-disk", {}, {}, [])
    assert job.answer()["error"]["code"] == "invalid_argument"
    job = Job(lab, "stat", stopped(lab, tmp_path / "overlay"), {}, [])
    assert job.answer()["error"]["code"] == "internal"
    assert lab.run("true").exit_code() == 0
