"""The runtime's mounts: options, masks, and root file systems made to lead it astray."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runtime import oldoverlay
from tests.probes import requires
from tests.root.runtime_lab import HARMLESS, Box, Failed


def mount_options(output: str, point: str) -> tuple[str, set[str]]:
    """(type, options) of a line of /proc/mounts."""
    for line in output.splitlines():
        fields = line.split()
        if fields[1:2] == [point]:
            return fields[2], set(fields[3].split(","))
    raise AssertionError(f"{point} is not mounted: {output}")


def test_bind_mounts_of_directory_and_file(box: Box) -> None:
    source = box.directory / "source"
    source.mkdir()
    (source / "file").write_text("content\n")
    box.mount("/a/b/c", source, "rbind", "rprivate", "ro", "nosuid")
    box.mount("etc/one", source / "file", "bind")
    output = box.sh("cat /a/b/c/file /etc/one; touch /a/b/c/x 2>&1 || true; cat /proc/mounts")
    assert output.splitlines()[:2] == ["content", "content"]
    assert "Read-only file system" in output
    assert {"ro", "nosuid"} <= mount_options(output, "/a/b/c")[1]
    assert "rw" in mount_options(output, "/etc/one")[1]


def test_relative_source_is_in_the_bundle(box: Box) -> None:
    (box.bundle / "data").write_text("here\n")
    box.mount("/data", "data", "bind")
    assert box.sh("cat /data") == "here\n"


def test_recursive_readonly(box: Box) -> None:
    source = box.directory / "source"
    (source / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "inner"], check=True)
    try:
        box.mount("/plain", source, "rbind", "ro")
        box.mount("/deep", source, "rbind", "rro", "rnosuid")
        output = box.sh("cat /proc/mounts")
    finally:
        subprocess.run(["umount", source / "inner"], check=True)
    assert "rw" in mount_options(output, "/plain/inner")[1]
    assert {"ro", "nosuid"} <= mount_options(output, "/deep/inner")[1]


def test_propagation(box: Box) -> None:
    source = box.directory / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    try:
        for name in ("rprivate", "rslave", "rshared"):
            box.mount(f"/{name}", source, "rbind", name)
        box.mount("/default", source, "rbind")
        output = box.sh("cat /proc/self/mountinfo")
    finally:
        subprocess.run(["umount", source], check=True)
    found = {line.split()[4]: line.split(" - ")[0] for line in output.splitlines()}
    assert "shared:" not in found["/rprivate"] + found["/rslave"] + found["/default"]
    assert "master:" in found["/rslave"]
    assert "shared:" in found["/rshared"]


def test_tmpfs_takes_options_and_the_mode_below(box: Box) -> None:
    (box.rootfs / "private").mkdir(mode=0o710)
    box.mount("/private", "tmpfs", *HARMLESS, type_="tmpfs")
    box.mount("/sized", "tmpfs", "size=1m", "mode=1700", "noatime", type_="tmpfs")
    output = box.sh("stat -c %a /private /sized; cat /proc/mounts")
    assert output.splitlines()[:2] == ["710", "1700"]
    kind, options = mount_options(output, "/sized")
    assert kind == "tmpfs"
    assert {"size=1024k", "noatime"} <= options


def test_tmpcopyup(box: Box) -> None:
    below = box.rootfs / "var/below"
    (below / "deep").mkdir(parents=True)
    (below / "deep/file").write_text("kept\n")
    (below / "deep/file").chmod(0o640)
    os.chown(below / "deep/file", 0, 4)
    (below / "link").symlink_to("/etc/shadow")
    box.mount("/var/below", "tmpfs", "tmpcopyup", type_="tmpfs")
    output = box.sh(
        "cd /var/below; stat -c '%a %u %g' deep/file; readlink link; echo >new; cat deep/file"
    )
    assert output.split() == ["640", "0", "4", "/etc/shadow", "kept"]
    assert not (below / "new").exists()


def test_readonly_root(box: Box) -> None:
    box.config["root"]["readonly"] = True
    output = box.sh("touch /x 2>&1 || true; touch /dev/shm/x; cat /proc/mounts")
    assert "Read-only file system" in output
    assert "ro" in mount_options(output, "/")[1]


def test_masked_and_readonly_paths(box: Box) -> None:
    (box.rootfs / "secrets").mkdir()
    (box.rootfs / "secrets/key").write_text("key")
    (box.rootfs / "secret").write_text("key")
    (box.rootfs / "frozen").mkdir()
    box.linux["maskedPaths"] += ["/secrets", "/secret", "/not/there", "/proc/scsi", "/proc/acpi"]
    box.linux["readonlyPaths"] += ["/frozen", "/missing"]
    output = box.sh(
        "ls /secrets | wc -l; wc -c </secret; wc -c </proc/keys; ls /sys/firmware | wc -l;"
        "for f in /frozen/x /secrets/x /proc/sys/kernel/hostname; do touch $f 2>&1; done;"
        "echo 1 >/proc/sysrq-trigger; true"
    )
    assert output.split()[:4] == ["0", "0", "0", "0"]
    assert output.count("Read-only file system") >= 3


def test_cgroup_mount(box: Box) -> None:
    box.mount("/sys/fs/cgroup", "cgroup", *HARMLESS, "relatime", "ro", type_="cgroup")
    output = box.sh("cat /proc/mounts; mkdir /sys/fs/cgroup/x 2>&1; true")
    points = [line.split()[1] for line in output.splitlines() if " /sys/fs/cgroup" in line]
    assert points
    for point in points:
        assert {"ro", "nosuid", "nodev", "noexec"} <= mount_options(output, point)[1]
    assert "can't create directory" in output


@requires("cgroup1")
def test_cgroup_mount_without_a_cgroup_namespace(box: Box) -> None:
    box.linux["namespaces"] = [n for n in box.linux["namespaces"] if n["type"] != "cgroup"]
    box.linux["resources"] = {"pids": {"limit": 18}}
    box.mount("/sys/fs/cgroup", "cgroup", *HARMLESS, "ro", type_="cgroup")
    output = box.sh("cat /sys/fs/cgroup/pids/pids.max; mkdir /sys/fs/cgroup/pids/x 2>&1; true")
    assert output.split()[0] == "18"
    assert "Read-only" in output


@requires("userns")
def test_idmapped_mount(box: Box) -> None:
    source = box.directory / "source"
    source.mkdir()
    os.chown(source, 1000, 1000)
    mapping = [{"containerID": 1000, "hostID": 5000, "size": 1}]
    box.mount("/mapped", source, "bind", "idmap")
    box.config["mounts"][-1] |= {"uidMappings": mapping, "gidMappings": mapping}
    assert box.sh("stat -c %u:%g /mapped").strip() == "5000:5000"


# Hostile roots: every victim is a directory or file of the host that must stay as it is.


@pytest.fixture
def victim(box: Box) -> Path:
    directory = box.directory / "victim"
    directory.mkdir()
    (directory / "ptmx").write_text("untouched")
    return directory


def untouched(victim: Path) -> bool:
    return sorted(os.listdir(victim)) == ["ptmx"] and (victim / "ptmx").read_text() == "untouched"


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_link_in_place_of_proc_is_refused(box: Box, victim: Path, name: str) -> None:
    (box.rootfs / name).rmdir()
    (box.rootfs / name).symlink_to("/tmp")
    with pytest.raises(Failed, match="must be mounted on ordinary directory"):
        box.create()
    assert untouched(victim)


def test_dev_that_is_a_link_to_the_host(box: Box, victim: Path) -> None:
    """CVE-2026-41579."""
    box.config["mounts"] = [
        m for m in box.config["mounts"] if not m["destination"].startswith("/dev")
    ]
    depth = len(box.rootfs.parts)
    (box.rootfs / "dev").rmdir()
    (box.rootfs / "dev").symlink_to("../" * depth + str(victim)[1:])
    try:
        box.run("true")
    except Failed as failure:
        assert failure.step == "devices"  # noqa: PT017 - either outcome is safe
    assert untouched(victim)


@pytest.mark.parametrize("target", ["{absolute}", "{relative}"])
def test_mount_through_a_link_stays_inside(box: Box, victim: Path, target: str) -> None:
    climb = "../" * len(box.rootfs.parts) + str(victim)[1:]
    (box.rootfs / "out").symlink_to(target.format(absolute=victim, relative=climb))
    source = box.directory / "source"
    source.mkdir()
    box.mount("/out/new/deep", source, "rbind")
    box.process["cwd"] = "/out/work"
    try:
        box.run("true")
    except Failed as failure:
        assert failure.step in ("mount", "mkdir")  # noqa: PT017 - either outcome is safe
    assert untouched(victim)


@pytest.mark.parametrize("destination", ["/proc/sys/net", "/proc/1", "/link/sys"])
def test_bind_over_proc_is_refused(box: Box, destination: str) -> None:
    """CVE-2023-27561 and CVE-2025-52881 begin so."""
    (box.rootfs / "link").symlink_to("proc")
    box.mount(destination, box.directory, "rbind")
    with pytest.raises(Failed, match="cannot be mounted because it is inside /proc"):
        box.create()


def test_proc_itself_must_be_proc(box: Box) -> None:
    box.config["mounts"][0] = {
        "destination": "/proc",
        "type": "bind",
        "source": str(box.directory),
        "options": ["rbind"],
    }
    with pytest.raises(Failed, match="because it is not of type proc"):
        box.create()


def test_single_files_of_proc_may_be_covered(box: Box) -> None:
    (box.directory / "uptime").write_text("1.0 1.0\n")
    box.mount("/proc/uptime", box.directory / "uptime", "bind")
    assert box.sh("cat /proc/uptime") == "1.0 1.0\n"


@pytest.mark.parametrize("number", range(3, 24))
def test_cwd_by_a_leaked_descriptor(box: Box, number: int) -> None:
    """CVE-2024-21626."""
    box.driver.ask("leak", count=1)
    box.process["cwd"] = f"/proc/self/fd/{number}"
    with pytest.raises(Failed):
        box.create()


def test_console_is_not_a_link_of_the_image(box: Box, victim: Path) -> None:
    """CVE-2025-52565; a /dev of the image's own."""
    box.config["mounts"] = [
        m for m in box.config["mounts"] if m["destination"] not in ("/dev", "/dev/shm")
    ]
    (box.rootfs / "dev/console").symlink_to("/proc/sysrq-trigger")
    box.process["terminal"] = True
    with pytest.raises(Failed, match="symbolic link"):
        box.create()


def test_nothing_of_a_container_is_mounted_on_the_host(box: Box) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    box.start("sleep", "100")
    assert Path("/proc/self/mountinfo").read_text() == before


@requires("overlay")
def test_overlay_by_mount_2_is_seen_by_nobody(tmp_path: Path) -> None:
    """The way of kernels before Linux 6.7, which others have as well."""
    layers = [tmp_path / f"layer, {number} {'x' * 20}" for number in range(30)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"from{number}").write_text("")
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = ["lowerdir=" + ":".join(map(str, layers))]
    options += [f"{name}dir={tmp_path / name}" for name in ("upper", "work")]

    def view() -> tuple[str, str]:
        return os.readlink("/proc/thread-self/ns/mnt"), os.getcwd()

    before = view()
    tree = oldoverlay.make("overlay", options)
    try:
        assert view() == before
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        names = os.listdir(f"/proc/self/fd/{tree}")
        assert set(names) == {f"from{number}" for number in range(30)}
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=tree))
    finally:
        os.close(tree)
    assert (tmp_path / "upper/new").exists()
