"""--userns-remap: containers whose root is somebody else on the host, by the docker command."""

from __future__ import annotations

import io
import os
import pwd
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import polling
from tests.archives import busybox_layer, docker_archive, tool
from tests.engine import BUSYBOX, OwnEngine, fresh_name
from tests.probes import requires

TAR = {"Content-Type": "application/x-tar"}
USER = "dockremap"
IMAGE = "t-capable:1"
WITH_CAPABILITY = "busybox-capable"
CAP_CHOWN = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)  # linux/capability.h, vfs_cap_data

pytestmark = requires("idmapped")


@pytest.fixture(scope="module")
def remap(make_engine: Callable[..., OwnEngine]) -> Iterator[OwnEngine]:
    there = USER in (entry.pw_name for entry in pwd.getpwall())
    engine = make_engine("--userns-remap=default")
    archive = docker_archive([IMAGE, BUSYBOX], [busybox_layer(), capable_layer()])
    assert engine.api("POST", "/images/load?quiet=1", archive, TAR).status == 200
    yield engine
    engine.destroy()
    if not there:
        subprocess.run(["userdel", USER], check=True, capture_output=True)


def capable_layer() -> bytes:
    """A busybox that may give files away, whoever runs it, and a file of somebody's."""
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        program = tool("busybox", "bin/busybox").read_bytes()
        entry = tarfile.TarInfo(WITH_CAPABILITY)
        entry.mode, entry.size = 0o755, len(program)
        entry.pax_headers = {"SCHILY.xattr.security.capability": CAP_CHOWN.decode("latin-1")}
        tar.addfile(entry, io.BytesIO(program))
        entry = tarfile.TarInfo("somebodys")
        entry.uid, entry.gid = 33, 44
        tar.addfile(entry)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def first_id(remap: OwnEngine) -> int:
    """Whom the host sees behind the containers' root."""
    for line in Path("/etc/subuid").read_text().splitlines():
        name, start, _ = line.split(":")
        if name == USER:
            return int(start)
    raise AssertionError(f"/etc/subuid has no range for {USER}")


@pytest.fixture
def box(remap: OwnEngine) -> Iterator[Callable[..., str]]:
    """Starts containers; removes them and their anonymous volumes afterwards."""
    started: list[str] = []

    def start(*arguments: str) -> str:
        started.append(fresh_name())
        remap.docker("run", "-d", "--name", started[-1], *arguments)
        return started[-1]

    yield start
    for name in started:
        remap.api("DELETE", f"/containers/{name}?force=1&v=1")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of the host's that everybody may write to, with something of root's in it."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "secret").write_text("x")
    (directory / "secret").chmod(0o600)
    (directory / "roots").mkdir(0o755)
    return directory


def sh(engine: OwnEngine, script: str, *options: str, image: str = BUSYBOX) -> str:
    done = engine.docker("run", "--rm", *options, image, "sh", "-c", script, check=False)
    return done.stdout + done.stderr


def test_info(remap: OwnEngine) -> None:
    assert "name=userns" in remap.api("GET", "/info").json()["SecurityOptions"]


def test_root_is_somebody_else_on_the_host(
    remap: OwnEngine, first_id: int, box: Callable[..., str], shared: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing/deep"
    name = box(
        *("-v", f"{shared}:/shared", "-v", f"{missing}:/missing", BUSYBOX, "sh", "-c"),
        "touch /shared/new /missing/new; cat /shared/secret; touch /shared/roots/new; sleep 1000",
    )
    polling.until(lambda: (missing / "new").exists(), "the container to write")
    pid = remap.inspect(name)["State"]["Pid"]
    for kind in ("uid", "gid"):
        assert Path(f"/proc/{pid}/{kind}_map").read_text().split() == ["0", str(first_id), "65536"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{first_id}\t{first_id}" in status
    for path in (shared / "new", missing / "new", missing, missing.parent):
        assert (path.stat().st_uid, path.stat().st_gid) == (first_id, first_id), path
    assert (shared / "secret").stat().st_uid == 0
    polling.until(lambda: remap.docker("logs", name).stderr.count("denied") == 2, "two refusals")
    assert not (shared / "roots/new").exists()


def test_files_have_their_owners_inside(remap: OwnEngine) -> None:
    script = (
        "cd /; stat -c '%u:%g %n' bin/busybox somebodys tmp vol etc/hosts etc/resolv.conf"
        " dev/shm tmpfs dev/pts/ptmx; echo x >>/etc/hosts && echo x >/bin/new && echo x >/vol/new"
        " && echo x >/dev/shm/new && echo x >/tmpfs/new && rm /bin/true && echo written"
    )
    lines = sh(remap, script, "-v", "/vol", "--tmpfs", "/tmpfs").splitlines()
    assert lines.pop() == "written"
    assert lines.pop(1) == "33:44 somebodys"
    assert {line.split()[0] for line in lines} == {"0:0"}


def test_users_and_terminals(remap: OwnEngine) -> None:
    for script, expected in (
        ("id -u; id -G; echo out >/dev/stdout; echo err >/dev/stderr", "1000\n10 7\nout\nerr\n"),
        ("touch /tmp/f && stat -c %u:%g /tmp/f", "1000:10\n"),
    ):
        assert sh(remap, script, "-u", "1000:10", "--group-add", "7") == expected
    # Its group is that of the option gid=5, and its owner can open it by name.
    shown = sh(remap, "stat -c %u:%g $(tty) /dev/console; echo on >/dev/console", "-t")
    assert shown.split() == ["0:5", "0:5", "on"]


@pytest.mark.parametrize("options", [(), ("--cap-add=SYS_PTRACE",)])
def test_exec(
    remap: OwnEngine, first_id: int, box: Callable[..., str], options: tuple[str, ...]
) -> None:
    name = box("--init", *options, BUSYBOX, "sleep", "1000")
    script = "id -u; cat /proc/self/uid_map; echo x >/dev/stdout; touch /tmp/f; stat -c %u /tmp/f"
    shown = remap.docker("exec", "-u", "70", name, "sh", "-c", script).stdout.split()
    assert shown == ["70", "0", str(first_id), "65536", "x", "70"]
    assert remap.docker("exec", name, "cat", "/proc/1/comm").stdout == "docker-init\n"
    assert remap.docker("top", name, "-eo", "pid,uid").stdout.split()[3] == str(first_id)


def test_network_sysctl_and_device(remap: OwnEngine) -> None:
    script = (
        "ip -o addr show eth0 | grep -c inet; cat /proc/sys/net/core/somaxconn; ulimit -n;"
        " stat -c %F /dev/other; echo x >/dev/other; mkdir /sys/fs/cgroup/pids/x 2>&1"
    )
    options = ("--sysctl", "net.core.somaxconn=77", "--ulimit", "nofile=500:600")
    shown = sh(remap, script, *options, "--device", "/dev/null:/dev/other").splitlines()
    assert shown[:4] == ["1", "77", "500", "character special file"]
    assert "Read-only" in shown[4]
    assert len(shown) == 5


def test_userns_host(remap: OwnEngine) -> None:
    """The same files with the same owners, and all that is refused otherwise."""
    script = "cat /proc/self/uid_map; stat -c %u:%g /bin/busybox /somebodys; touch /bin/new"
    shown = sh(remap, script, "--userns=host", "--privileged", "--network=host", "--pid=host")
    assert shown.split() == ["0", "0", "4294967295", "0:0", "33:44"]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (
            "--privileged",
            "privileged mode is incompatible with user namespaces.  You must run the container in "
            "the host namespace when running privileged mode",
        ),
        (
            "--network=host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ],
)
def test_refused(remap: OwnEngine, option: str, text: str) -> None:
    done = remap.docker("create", option, BUSYBOX, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == f"Error response from daemon: {text}"


def test_namespaces_of_another_container(remap: OwnEngine, box: Callable[..., str]) -> None:
    name = box("--ipc=shareable", BUSYBOX, "sleep", "1000")
    for kind in ("network", "pid", "ipc"):
        shown = sh(remap, "readlink /proc/self/ns/user", f"--{kind}=container:{name}")
        pid = remap.inspect(name)["State"]["Pid"]
        assert shown.strip() == os.readlink(f"/proc/{pid}/ns/user")
    assert sh(remap, "stat -c %u /dev/shm", "--ipc=host") == "65534\n"


def owners(tar: bytes) -> dict[str, tuple[int, int]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {entry.name: (entry.uid, entry.gid) for entry in archive}


def test_copies_in_and_out(
    remap: OwnEngine, first_id: int, box: Callable[..., str], shared: Path
) -> None:
    """With the ids of the container, whether it runs or not."""
    places = ("/", "/vol", "/shared")
    name = box("-v", "/vol", "-v", f"{shared}:/shared", BUSYBOX, "sleep", "1000")
    for state in ("running", "stopped"):
        if state == "stopped":
            remap.docker("stop", "-t", "0", name)
        for place in places:
            put = f"/containers/{name}/archive?path={place}"
            assert remap.api("PUT", put, tar_of(state, 12, 13), TAR).status == 200, (state, place)
            got = remap.api("GET", f"/containers/{name}/archive?path={place}/{state}")
            assert owners(got.body) == {state: (12, 13)}, (state, place)
        on_host = (shared / state).stat()
        assert (on_host.st_uid, on_host.st_gid) == (first_id + 12, first_id + 13)
        exported = owners(remap.api("GET", f"/containers/{name}/export").body)
        assert exported[state] == (12, 13)
        assert exported["bin/busybox"] == (0, 0)
    remap.docker("start", name)
    script = "stat -c %u:%g /running /stopped /vol/* /shared/running /shared/stopped"
    assert set(remap.docker("exec", name, "sh", "-c", script).stdout.split()) == {"12:13"}


def tar_of(name: str, uid: int, gid: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.uid, entry.gid = uid, gid
        tar.addfile(entry)
    return buffer.getvalue()


def test_commit_setuid_and_capabilities(remap: OwnEngine, box: Callable[..., str]) -> None:
    """What gives rights to a file does inside, of the image, copied up, and committed."""
    gives_away = f"touch /tmp/f; /{WITH_CAPABILITY} chown 5 /tmp/f && stat -c %u /tmp/f"
    assert sh(remap, gives_away, "-u", "1000") == "5\n"
    script = (
        f"chmod 711 /{WITH_CAPABILITY}; cp /bin/busybox /busybox-suid; chmod 4755 /busybox-suid;"
        " echo root::0:0::/:/bin/sh >/etc/passwd; chown 70:71 /etc/group; rm -r /var"
    )
    name = box(BUSYBOX, "sh", "-c", script)
    remap.docker("wait", name)
    changed = remap.docker("diff", name).stdout.split("\n")
    assert {"A /busybox-suid", f"C /{WITH_CAPABILITY}", "D /var", "C /etc/group"} <= set(changed)
    image = fresh_name()
    remap.docker("commit", name, image)
    becomes_root = "/busybox-suid su -c 'id -u'; stat -c %u:%g /etc/group"
    for mode in ((), ("--userns=host",)):
        options = ("-u", "1000", *mode)
        assert sh(remap, gives_away, *options, image=image) == "5\n", mode
        assert sh(remap, becomes_root, *options, image=image) == "0\n70:71\n", mode


def test_volumes(remap: OwnEngine, first_id: int, shared: Path) -> None:
    """Their files are the engine's, with ids as inside; a device's are the host's."""
    volume, memory, device = fresh_name(), fresh_name(), fresh_name()
    for name, options in (
        (memory, {"type": "tmpfs", "device": "tmpfs"}),
        (device, {"type": "none", "device": str(shared), "o": "bind"}),
    ):
        asked = [f"--opt={key}={value}" for key, value in options.items()]
        remap.docker("volume", "create", *asked, name)
    try:
        copied = sh(remap, "touch /etc/new; stat -c %u:%g /etc/*", "-v", f"{volume}:/etc")
        assert set(copied.split()) == {"0:0"}
        mode = ("--userns=host", "-v", f"{volume}:/v")
        assert set(sh(remap, "stat -c %u:%g /v/*", *mode).split()) == {"0:0"}
        part = f"type=volume,source={volume},target=/v,volume-subpath=new"
        assert sh(remap, "echo x >/v; stat -c %u:%g /v", "--mount", part) == "0:0\n"
        assert sh(remap, "touch /m/new; stat -c %u:%g /m/new", "-v", f"{memory}:/m") == "0:0\n"
        script = "touch /d/new; stat -c %u:%g /d/new /d/roots"
        assert sh(remap, script, "-v", f"{device}:/d") == "0:0\n65534:65534\n"
        assert (shared / "new").stat().st_uid == first_id
    finally:
        remap.docker("volume", "rm", volume, memory, device)


def test_image_mount(remap: OwnEngine) -> None:
    for options, path in (("", "/i/somebodys"), (",image-subpath=somebodys", "/i")):
        mount = f"type=image,source={IMAGE},target=/i{options}"
        shown = remap.docker(
            "run", "--rm", "--mount", mount, BUSYBOX, "stat", "-c", "%u:%g", path
        ).stdout
        assert shown == "33:44\n"


def test_without_the_option_again(remap: OwnEngine, first_id: int, box: Callable[..., str]) -> None:
    """The option is the engine's at a start; what runs keeps its ids, and nothing is lost."""
    name = box(BUSYBOX, "sh", "-c", "touch /new; chown 12:13 /new; exec sleep 1000")
    polling.until(
        lambda: remap.docker("exec", name, "cat", "/proc/1/comm").stdout == "sleep\n", "its sleep"
    )
    remap.stop()
    remap.flags = ()
    remap.start()
    assert "name=userns" not in remap.api("GET", "/info").json()["SecurityOptions"]
    got = remap.api("GET", f"/containers/{name}/archive?path=/new")
    assert owners(got.body) == {"new": (12, 13)}
    assert str(first_id) in remap.docker("exec", name, "cat", "/proc/self/uid_map").stdout
    remap.docker("restart", "-t", "0", name)
    script = "cat /proc/self/uid_map; stat -c %u:%g /new"
    shown = remap.docker("exec", name, "sh", "-c", script).stdout.split()
    assert shown == ["0", "0", "4294967295", "12:13"]
