"""docker cp both ways, HEAD/GET/PUT archive, export and diff."""

from __future__ import annotations

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import socket
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import zstandard

from tests import polling
from tests.archives import Layer
from tests.engine import BUSYBOX, Engine, OwnEngine, fresh_name
from tests.rawhttp import UnixConnection

Runner = Callable[..., str]
BIG = 20_000_000
SETUP = (
    "mkdir -p /d/sub; echo x > /d/f; ln /d/f /d/g; ln -s f /d/l; ln -s /d /dl; ln -s none /dang; "
    "mkfifo /d/p; chown 5:6 /d/f; chmod 4755 /d/f; ln -s ../../../etc /up; ln -s up/passwd /up2; "
    "touch /ready; sleep 1000"
)
DIRECTORY, SYMLINK = 1 << 31, 1 << 27


@pytest.fixture
def box(engine: Engine, running: Runner) -> str:
    name = running(BUSYBOX, "sh", "-c", SETUP)
    engine.docker("exec", name, "sh", "-c", "until [ -e /ready ]; do :; done")
    return name


@pytest.fixture
def stopped(engine: Engine, name: str) -> str:
    engine.docker("create", "--name", name, BUSYBOX, "true")
    return name


def target(container: str, path: str, **options: object) -> str:
    extra = "".join(f"&{key}={value}" for key, value in options.items())
    return f"/containers/{container}/archive?path={quote(path)}{extra}"


def stat_of(headers: Any) -> Any:
    return json.loads(base64.b64decode(headers["x-docker-container-path-stat"]))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar.getmembers()}


def get(engine: Engine, container: str, path: str) -> dict[str, tarfile.TarInfo]:
    answer = engine.api("GET", target(container, path))
    assert answer.status == 200, answer.body
    return members(answer.body)


def put(engine: Engine, container: str, path: str, tar: bytes, **options: object) -> Any:
    headers = {"Content-Type": "application/x-tar"}
    return engine.api("PUT", target(container, path, **options), tar, headers)


def sh(engine: Engine, container: str, script: str) -> str:
    return engine.docker("exec", container, "sh", "-c", script).stdout


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/d", ["d", "d/f", "d/g", "d/l", "d/p", "d/sub"]),
        ("d/", ["d", "d/f", "d/g", "d/l", "d/p", "d/sub"]),
        ("/d/.", [".", "./f", "./g", "./l", "./p", "./sub"]),
        ("/dl/", ["dl", "dl/f", "dl/g", "dl/l", "dl/p", "dl/sub"]),
        ("/dl", ["dl"]),
        ("/x/../d/sub", ["sub"]),
        ("/d/f", ["f"]),
        ("/up2", ["up2"]),
    ],
)
def test_names_in_the_tar(engine: Engine, box: str, path: str, names: list[str]) -> None:
    assert list(get(engine, box, path)) == names


def test_attributes_in_the_tar(engine: Engine, box: str) -> None:
    found = get(engine, box, "/d")
    file = found["d/f"]
    assert (file.uid, file.gid, file.mode, file.size) == (5, 6, 0o4755, 2)
    assert (found["d/g"].type, found["d/g"].linkname) == (tarfile.LNKTYPE, "d/f")
    assert (found["d/l"].type, found["d/l"].linkname) == (tarfile.SYMTYPE, "f")
    assert found["d/p"].isfifo()


@pytest.mark.parametrize(
    ("path", "name", "mode", "link"),
    [
        ("/d", "d", DIRECTORY | 0o755, ""),
        ("/d/f", "f", 1 << 23 | 0o755, ""),
        ("/dl", "dl", SYMLINK | 0o777, "/d"),
        ("/d/l", "l", SYMLINK | 0o777, "/d/f"),
        ("/dang", "dang", SYMLINK | 0o777, "/none"),
        ("/up2", "up2", SYMLINK | 0o777, "/etc/passwd"),
        ("/", "/", DIRECTORY | 0o755, ""),
    ],
)
def test_stat(engine: Engine, box: str, path: str, name: str, mode: int, link: str) -> None:
    answer = engine.api("HEAD", target(box, path))
    assert answer.status == 200
    found = stat_of(answer.headers)
    assert (found["name"], found["mode"], found["linkTarget"]) == (name, mode, link)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nope", 404, "Could not find the file /nope in container {}"),
        ("/dang/", 404, "Could not find the file /dang/ in container {}"),
        ("/d/f/", 500, "lstat /d/f/: not a directory"),
        ("/d/f/x", 500, "lstat /d/f/x: not a directory"),
        ("", 400, "bad parameter: pathcannot be empty"),
    ],
)
def test_get_errors(engine: Engine, box: str, path: str, status: int, message: str) -> None:
    answer = engine.api("GET", target(box, path))
    assert (answer.status, answer.message) == (status, message.format(box))


ONE = Layer().file("new", "hi", 0o640).tar()


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nope", 404, "Could not find the file /nope in container {}"),
        ("/dang", 404, "Could not find the file /dang in container {}"),
        ("/d/f", 400, "extraction point is not a directory"),
        ("/d/f/", 500, "lstat /d/f/: not a directory"),
    ],
)
def test_put_errors(engine: Engine, box: str, path: str, status: int, message: str) -> None:
    answer = put(engine, box, path, ONE)
    assert (answer.status, answer.message) == (status, message.format(box))


def test_put_replaces_and_merges(engine: Engine, box: str) -> None:
    tar = Layer().directory("sub", 0o700).file("sub/new", "1").directory("f").symlink("l", "x")
    assert put(engine, box, "/dl", tar.tar()).status == 200
    assert sh(engine, box, "stat -c '%n %F %a' /d/sub /d/sub/new /d/f; readlink /d/l") == (
        "/d/sub directory 700\n/d/sub/new regular file 644\n/d/f directory 755\nx\n"
    )


def test_put_does_not_replace_a_directory_if_told_so(engine: Engine, box: str) -> None:
    strict = {"noOverwriteDirNonDir": "true"}
    answer = put(engine, box, "/", Layer().file("d", "x").tar(), **strict)
    expected = 'cannot overwrite directory "d" with non-directory "/"'
    assert (answer.status, answer.message) == (500, expected)
    answer = put(engine, box, "/d", Layer().directory("f").tar(), **strict)
    expected = 'cannot overwrite non-directory "f" with directory "/d"'
    assert (answer.status, answer.message) == (500, expected)


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (Layer().file("../escape", "x").tar(), 'invalid entry name "../escape"'),
        (Layer().hardlink("h", "../etc/passwd").tar(), 'invalid hardlink target "../etc/passwd"'),
        (b"garbage!" * 100, "archive/tar: invalid tar header"),
    ],
)
def test_put_of_bad_tars(engine: Engine, box: str, tar: bytes, message: str) -> None:
    answer = put(engine, box, "/d/sub", tar)
    assert (answer.status, answer.message) == (500, message)
    assert sh(engine, box, "ls /d/sub /d/escape 2>/dev/null || true").split() == ["/d/sub:"]


def test_put_with_the_containers_user(engine: Engine, running: Runner) -> None:
    name = running("--user", "postgres", BUSYBOX, "sleep", "1000")
    assert put(engine, name, "/tmp", ONE).status == 200
    assert sh(engine, name, "stat -c %u:%g /tmp/new") == "0:0\n"
    assert put(engine, name, "/tmp", ONE, copyUIDGID="1").status == 200
    assert sh(engine, name, "stat -c %u:%g /tmp/new") == "70:70\n"


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_put_of_compressed_tars(
    engine: Engine, box: str, compress: Callable[[bytes], bytes]
) -> None:
    tar = Layer().file("big", os.urandom(1 << 20)).file("small", "yes").tar()
    assert put(engine, box, "/d", compress(tar)).status == 200
    assert sh(engine, box, "cat /d/small; stat -c %s /d/big") == "yes1048576\n"


def in_chunks(engine: Engine, *requests: tuple[str, bytes]) -> list[int]:
    """PUTs in chunks over one connection, as the docker command sends them; the answers' codes."""
    codes = []
    with contextlib.closing(UnixConnection(str(engine.socket), 20)) as connection:
        for path, tar in requests:
            pieces = [tar[at : at + 700] for at in range(0, len(tar), 700)]
            connection.request("PUT", path, iter(pieces), encode_chunked=True)
            answer = connection.getresponse()
            answer.read()
            codes.append(answer.status)
    return codes


def test_put_in_chunks(engine: Engine, box: str) -> None:
    big = os.urandom(3 << 20)
    assert in_chunks(
        engine,
        (target(box, "/d"), Layer().file("one", big).tar()),
        (target(box, "/d"), gzip.compress(Layer().file("two", "2").tar())),
        (target(box, "/d"), b""),
        (target(box, "/d"), Layer().file("three", "3").tar()),
        (target(box, "/nope"), Layer().file("four", big).tar()),
        (target(box, "/d"), Layer().file("five", "5").tar()),
        (target(box, ""), ONE),
        ("/v1.99" + target(box, "/d"), Layer().file("never", big).tar()),
    ) == [200, 200, 200, 200, 404, 200, 400, 400]
    assert get(engine, box, "/d/one")["one"].size == len(big)
    assert sh(engine, box, "cat /d/two /d/three /d/five") == "235"


def test_put_of_broken_chunks(engine: Engine, box: str) -> None:
    head = f"PUT {target(box, '/d')} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for rest in (b"zz\r\n" + ONE, b"8\r\n12345678XX" + ONE, b"-1\r\n" + ONE):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(engine.socket))
            client.sendall(head.encode() + rest)
            answer = client.recv(1 << 16)
            assert answer.split()[1] in (b"400", b"500"), answer


def test_put_of_a_broken_compressed_tar(engine: Engine, box: str) -> None:
    answer = put(engine, box, "/d", gzip.compress(ONE)[:-20])
    assert answer.status in (400, 500), answer.body


def test_put_of_holes_and_xattrs(engine: Engine, box: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("holes")
        entry.pax_headers = {
            "GNU.sparse.size": "1048580",
            "GNU.sparse.map": "1048576,4",
            "SCHILY.xattr.user.color": "blue",
        }
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"tail"))
    assert put(engine, box, "/d", buffer.getvalue()).status == 200
    assert sh(engine, box, "stat -c %s /d/holes; tail -c 4 /d/holes; du -k /d/holes").split() == [
        "1048580",
        "tail4",
        "/d/holes",
    ]
    found = get(engine, box, "/d/holes")["holes"]
    assert found.size == 1048580
    assert found.pax_headers["SCHILY.xattr.user.color"] == "blue"


@pytest.mark.parametrize("where", ["running", "stopped"])
def test_volumes_and_read_only(engine: Engine, name: str, tmp_path: Path, where: str) -> None:
    (tmp_path / "ro").mkdir()
    engine.docker(
        *("create", "--name", name, "--read-only", "-v", "/vol", "-v", f"{tmp_path}/ro:/ro:ro"),
        *(BUSYBOX, "sleep", "1000"),
    )
    if where == "running":
        engine.docker("start", name)
    assert put(engine, name, "/vol", ONE).status == 200
    assert list(get(engine, name, "/vol")) == ["vol", "vol/new"]
    for path, message in (
        ("/ro", "mounted volume is marked read-only"),
        ("/tmp", "container rootfs is marked read-only"),
    ):
        answer = put(engine, name, path, ONE)
        assert (answer.status, answer.message) == (400, message)
    assert list((tmp_path / "ro").iterdir()) == []


def test_tmpfs_of_a_running_container(engine: Engine, running: Runner) -> None:
    name = running("--tmpfs", "/scratch", BUSYBOX, "sleep", "1000")
    assert put(engine, name, "/scratch", ONE).status == 200
    assert sh(engine, name, "cat /scratch/new") == "hi"
    assert list(get(engine, name, "/scratch")) == ["scratch", "scratch/new"]


def test_kernel_file_systems_are_not_copied(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sleep", "1000")
    found = get(engine, name, "/")
    below = [path for path in found if path.split("/")[1:2] in (["proc"], ["sys"])]
    assert below == ["/proc", "/sys"]
    assert "/dev/null" not in found
    assert "/etc/hosts" in found


def test_a_written_container_starts_with_it(engine: Engine, stopped: str) -> None:
    assert put(engine, stopped, "/bin", Layer().symlink("true", "/hello").tar()).status == 200
    script = "#!/bin/sh\necho from outside\n"
    assert put(engine, stopped, "/", Layer().file("hello", script, 0o755).tar()).status == 200
    assert engine.docker("start", "-a", stopped).stdout == "from outside\n"
    assert list(get(engine, stopped, "/hello")) == ["hello"]


def test_cp_both_ways(engine: Engine, stopped: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_text("one\n")
    (source / "link").symlink_to("inner/file")
    os.chown(source / "inner" / "file", 1234, 4321)
    engine.docker("cp", str(source), f"{stopped}:/new")
    engine.docker("cp", f"{source}/.", f"{stopped}:/etc")
    engine.docker("cp", "-L", str(source / "link"), f"{stopped}:/followed")
    engine.docker("cp", f"{stopped}:/new", str(tmp_path / "back"))
    assert (tmp_path / "back/inner/file").read_text() == "one\n"
    assert os.readlink(tmp_path / "back/link") == "inner/file"
    engine.docker("cp", "-L", f"{stopped}:/new/link", str(tmp_path / "plain"))
    assert (tmp_path / "plain").read_text() == "one\n"
    assert get(engine, stopped, "/etc/inner/file")["file"].size == 4
    assert get(engine, stopped, "/followed")["followed"].isreg()
    refused = engine.docker("cp", str(source), f"{stopped}:/etc/passwd", check=False)
    assert refused.returncode == 1


def test_cp_through_pipes(engine: Engine, box: str) -> None:
    tar = subprocess_output(engine, "cp", f"{box}:/d/sub", "-")
    assert list(members(tar)) == ["sub"]
    engine.docker("cp", "-", f"{box}:/d/sub", input=ONE)
    assert sh(engine, box, "cat /d/sub/new") == "hi"


def subprocess_output(engine: Engine, *arguments: str) -> bytes:
    process = engine.spawn(*arguments)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out


def test_a_big_file_both_ways(engine: Engine, box: str, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * (BIG >> 20)
    (tmp_path / "big").write_bytes(content)
    engine.docker("cp", str(tmp_path / "big"), f"{box}:/d/big")
    engine.docker("cp", f"{box}:/d/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content


def test_export(engine: Engine, name: str, tmp_path: Path) -> None:
    engine.docker(
        *("run", "-d", "--name", name, "-v", "/vol", BUSYBOX, "sh", "-c"),
        "echo x > /made; echo y > /vol/hidden; rm /etc/group; touch /ready; sleep 1000",
    )
    engine.docker("exec", name, "sh", "-c", "until [ -e /ready ]; do :; done")

    def check() -> None:
        found = members(subprocess_output(engine, "export", name))
        assert found["made"].size == 2
        assert found["vol"].isdir()
        assert {"vol/hidden", "etc/group", "dev/null"} & set(found) == set()
        assert [path for path in found if path.startswith(("proc/", "sys/"))] == []

    check()
    engine.docker("kill", name)
    engine.docker("wait", name)
    check()


def test_diff(engine: Engine, name: str) -> None:
    script = (
        "mkdir -p /new/deep; touch /new/deep/file; rm /etc/group; echo >> /etc/passwd; "
        "rm -r /usr; mkdir /usr; touch /usr/own; chmod 700 /home"
    )
    engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", script)
    lines = engine.docker("diff", name).stdout.splitlines()
    assert sorted(lines) == [
        *("A /new", "A /new/deep", "A /new/deep/file", "A /usr/own"),
        *("C /etc", "C /etc/passwd", "C /home", "C /usr"),
        *("D /etc/group", "D /usr/bin"),
    ]


def test_diff_of_an_untouched_container(engine: Engine, stopped: str) -> None:
    assert engine.api("GET", f"/containers/{stopped}/changes").json() is None


def test_sizes(engine: Engine, name: str) -> None:
    script = "head -c 100000 /dev/zero > /a; ln /a /b; mkdir /c; echo 1 > /c/d"
    engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", script)
    found = engine.api("GET", f"/containers/{name}/json?size=1").json()
    assert found["SizeRw"] == 100002
    assert found["SizeRootFs"] > 1_000_000


def test_events(engine: Engine, box: str) -> None:
    since = engine.api("GET", "/info").json()["SystemTime"]
    assert put(engine, box, "/d", ONE).status == 200
    get(engine, box, "/d/new")
    assert engine.api("GET", f"/containers/{box}/export").status == 200
    until = engine.api("GET", "/info").json()["SystemTime"]
    listing = engine.docker(
        *("events", "--since", since, "--until", until, "--filter", f"container={box}"),
        *("--format", "{{.Action}}"),
    )
    assert listing.stdout.split() == ["extract-to-dir", "archive-path", "export"]


# What only concerns this project's own engine.


@pytest.fixture
def jobs(own_engine: OwnEngine) -> Iterator[Callable[[], list[int]]]:
    """The pids of this engine's job processes, which must be none afterwards."""

    def look() -> list[int]:
        pids = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith("longshore-job") and str(own_engine.exec_root) in title:
                pids.append(int(path.parent.name))
        return pids

    polling.until(lambda: not look(), "an earlier test's jobs to end")
    yield look
    polling.until(lambda: not look(), "the jobs to end")


def open_upload(engine: Engine, container: str) -> socket.socket:
    """A PUT whose body never goes on after the begin of a file."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(engine.socket))
    entry = tarfile.TarInfo("half")
    entry.size = 1 << 30
    head = (
        f"PUT {target(container, '/tmp')} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 31}\r\n\r\n"
    )
    client.sendall(head.encode() + entry.tobuf() + bytes(4096))
    return client


def wait_entered(pid: int) -> None:
    """Until a job is where it works; that it gives up new privileges is the last step."""
    status = Path(f"/proc/{pid}/status")
    polling.until(lambda: "NoNewPrivs:\t1" in status.read_text(), "the job to have entered")


def test_a_client_that_leaves_ends_its_job(
    own_engine: OwnEngine, stopped: str, jobs: Callable[[], list[int]]
) -> None:
    with open_upload(own_engine, stopped):
        polling.until(jobs, "a job")
    polling.until(lambda: not jobs(), "the job to end")
    own_engine.docker("start", "-a", stopped)


def test_a_reader_that_stalls_holds_nothing_up(
    own_engine: OwnEngine, name: str, jobs: Callable[[], list[int]]
) -> None:
    script = "head -c 20000000 /dev/zero > /big"
    own_engine.docker("run", "--name", name, BUSYBOX, "sh", "-c", script)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(own_engine.socket))
        client.sendall(f"GET {target(name, '/big')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        polling.until(jobs, "a job")
        own_engine.docker("start", "-a", name)
        assert get(own_engine, name, "/etc/passwd")["passwd"].isreg()
        own_engine.docker("rm", name)


def test_no_mount_of_a_job_shows_on_the_host(
    own_engine: OwnEngine, stopped: str, jobs: Callable[[], list[int]]
) -> None:
    def mounts() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        roots = (str(own_engine.data_root), str(own_engine.exec_root))
        return [line for line in lines if any(root in line for root in roots)]

    before = mounts()
    with open_upload(own_engine, stopped):
        wait_entered(polling.until(jobs, "a job")[0])
        assert mounts() == before
    assert put(own_engine, stopped, "/tmp", ONE).status == 200
    assert mounts() == before
    assert stat.S_ISDIR(os.stat(own_engine.exec_root / "shims").st_mode)


def test_jobs_run_sealed_and_with_few_capabilities(
    own_engine: OwnEngine, stopped: str, jobs: Callable[[], list[int]]
) -> None:
    with open_upload(own_engine, stopped):
        pid = polling.until(jobs, "a job")[0]
        wait_entered(pid)
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, MKNOD, SETFCAP
        assert int(fields["CapEff"], 16) == 0x8800001F
        assert int(fields["CapBnd"], 16) == 0x8800001F
        assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:")
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"


def test_names_that_are_no_text(engine: Engine, box: str) -> None:
    sh(engine, box, "touch /d/sub/$(printf 'a\\377b')")
    answer = engine.api("GET", target(box, "/d/sub"))
    with tarfile.open(fileobj=io.BytesIO(answer.body), errors="surrogateescape") as tar:
        assert [os.fsencode(member.name) for member in tar.getmembers()] == [b"sub", b"sub/a\xffb"]
    assert engine.api("GET", f"/containers/{box}/changes").status == 200


def test_image_with_hostile_links(engine: Engine, name: str, tmp_path: Path) -> None:
    """Whatever links lead to, they lead there inside the container."""
    canary = tmp_path / "canary"
    canary.write_text("host\n")
    tag = fresh_name()
    engine.docker("create", "--name", name, BUSYBOX, "true")
    layer = Layer().symlink("out", str(tmp_path)).symlink("up", "../../../../../../..")
    assert put(engine, name, "/", layer.tar()).status == 200
    for path in ("/out/canary", f"/up{tmp_path}/canary", f"/up{canary}"):
        assert engine.api("GET", target(name, path)).status == 404, path
    answer = put(engine, name, "/", Layer().file("out/canary", "theirs").tar())
    assert answer.status in (200, 404, 500), (answer.body, tag)
    assert canary.read_text() == "host\n"
