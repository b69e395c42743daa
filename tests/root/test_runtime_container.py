"""The runtime's library: what a container is, seen from inside and from outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runtime import cgroups
from tests.probes import requires
from tests.root.runtime_lab import CGROUP_PARENT, Box, Driver, Failed


def status_of(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _, value in pairs}


def test_namespaces_are_new(box: Box) -> None:
    output = box.sh("for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done")
    ours = {
        os.readlink(f"/proc/self/ns/{n}") for n in ("pid", "net", "ipc", "uts", "mnt", "cgroup")
    }
    assert len(output.split()) == 6
    assert not ours & set(output.split())


def test_shared_namespace_is_ours(box: Box) -> None:
    box.linux["namespaces"] = [{"type": "mount"}, {"type": "pid"}]
    box.config["hostname"] = ""
    assert box.sh("readlink /proc/self/ns/net").strip() == os.readlink("/proc/self/ns/net")


def test_hostname_and_pid_1(box: Box) -> None:
    box.config["domainname"] = "harbour"
    output = box.sh("hostname; echo $$; cat /proc/sys/kernel/domainname")
    assert output.split() == ["box", "1", "harbour"]


def test_loopback_is_up(box: Box) -> None:
    assert "inet addr:127.0.0.1" in box.sh("ifconfig lo")


@pytest.mark.parametrize("code", [0, 7, 255])
def test_exit_code(box: Box, code: int) -> None:
    assert box.run("sh", "-c", f"exit {code}").code == code


def test_death_by_signal(box: Box) -> None:
    box.start("sleep", "100")
    box.ask("kill", signal=9)
    assert box.ask("wait")["code"] == 137


def test_status_follows_the_process(box: Box) -> None:
    box.create("sleep", "100")
    seen = [box.ask("status")["status"]]
    box.ask("start")
    seen.append(box.ask("status")["status"])
    box.ask("pause")
    seen.append(box.ask("status")["status"])
    box.ask("resume")
    seen.append(box.ask("status")["status"])
    box.ask("kill")
    box.ask("wait")
    seen.append(box.ask("status")["status"])
    assert seen == ["created", "running", "paused", "running", "stopped"]


def test_program_does_not_run_before_start(box: Box) -> None:
    box.create("sh", "-c", "echo ran")
    assert box.output.read_text() == ""
    box.ask("start")
    box.ask("wait")
    assert box.output.read_text() == "ran\n"


def test_capability_sets(box: Box) -> None:
    box.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    box.process["user"] = {"uid": 1000, "gid": 1000}
    found = status_of(box.sh("cat /proc/self/status"))
    assert int(found["CapBnd"], 16) == 1 << 0 | 1 << 5 | 1 << 13
    assert int(found["CapInh"], 16) == 1 << 5
    # What is only ambient survives the execution of a program by somebody else than root.
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {1 << 5}


def test_inheritable_set_is_empty_by_default(box: Box) -> None:
    found = status_of(box.sh("cat /proc/self/status"))
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"]


def test_process_without_capabilities(box: Box) -> None:
    del box.process["capabilities"]
    found = status_of(box.sh("cat /proc/self/status"))
    assert {int(found[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}


def test_signals_are_reset(box: Box) -> None:
    found = status_of(box.run("cat", "/proc/self/status").output)
    assert [int(found[f"Sig{name}"], 16) for name in ("Pnd", "Blk", "Ign", "Cgt")] == [0] * 4


def test_limits_umask_and_oom_score(box: Box) -> None:
    box.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615},
    ]
    box.process["user"] = {"uid": 0, "gid": 0, "umask": 0o27}
    box.process["oomScoreAdj"] = 321
    output = box.sh("ulimit -n; ulimit -Hn; ulimit -Hc; umask; cat /proc/self/oom_score_adj")
    assert output.split() == ["100", "200", "unlimited", "0027", "321"]


def test_scheduler_and_io_priority(box: Box) -> None:
    box.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    output = box.sh("awk '{print $19, $41}' /proc/self/stat; ionice -p 1")
    assert output.splitlines()[0] == "7 3"
    assert output.splitlines()[1].startswith("idle")


def test_no_new_privileges(box: Box) -> None:
    box.process["noNewPrivileges"] = True
    assert status_of(box.sh("cat /proc/self/status"))["NoNewPrivs"] == "1"


def test_only_three_descriptors(box: Box, driver: Driver) -> None:
    driver.ask("leak", count=20)
    assert box.sh("ls /proc/1/fd; true").split() == ["0", "1", "2"]
    box.start("sleep", "100")
    result = box.exec("sh", "-c", "ls /proc/$$/fd; true")
    assert result.output.split() == ["0", "1", "2"]


def test_sysctl(box: Box) -> None:
    box.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"}
    output = box.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
    assert output.split() == ["1", "4242"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel.core_pattern", "|/evil"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern=x"),
        ("vm.swappiness", "1"),
    ],
)
def test_sysctl_of_the_host_is_refused(box: Box, key: str, value: str) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    box.linux["sysctl"] = {key: value}
    with pytest.raises(Failed) as caught:
        box.create()
    assert caught.value.step == "config"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_devices(box: Box) -> None:
    box.linux["devices"] = [
        {"path": "/dev/deep/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640},
        {"path": "/dev/pipe", "type": "p", "uid": 3, "gid": 4, "fileMode": 0o622},
    ]
    output = box.sh(
        "cd /dev; stat -c '%n %F %a %u:%g %t:%T' null deep/fuse pipe;"
        "for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x >/dev/null"
    )
    assert output.splitlines() == [
        "null character special file 666 0:0 1:3",
        "deep/fuse character special file 640 0:0 a:e5",
        "pipe fifo 622 3:4 0:0",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
    ]


def test_device_rules_hold(box: Box) -> None:
    box.process["capabilities"]["effective"] = ["CAP_MKNOD"]
    box.process["capabilities"]["permitted"] = ["CAP_MKNOD"]
    box.process["capabilities"]["bounding"] = ["CAP_MKNOD"]
    box.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    output = box.sh("mknod /d b 254 0; head -c 1 /d 2>&1; head -c 1 /dev/zero | wc -c")
    assert "Operation not permitted" in output
    assert output.splitlines()[-1].strip() == "1"


def test_personality(box: Box) -> None:
    box.linux["personality"] = {"domain": "LINUX32"}
    assert box.sh("uname -m").strip() in ("i686", "armv8l")


@requires("userns")
def test_user_namespace(box: Box) -> None:
    for path in (box.rootfs, box.bundle, box.directory, box.directory.parent):
        path.chmod(0o755)
    box.linux["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    box.linux["uidMappings"] = box.linux["gidMappings"] = mapping
    box.process["user"] = {"uid": 5, "gid": 6}
    pid = box.start("sh", "-c", "id; cat /proc/self/uid_map; ls -l /dev/null; hostname; sleep 100")
    status = status_of(Path(f"/proc/{pid}/status").read_text())
    assert status["Uid"].split()[0] == "100005"
    assert status["Gid"].split()[0] == "100006"
    result = box.exec("id", "-u")
    assert result.output.strip() == "5"


def test_joined_namespaces(box: Box, driver: Driver, tmp_path: Path) -> None:
    pid = box.start("sleep", "100")
    other = Box(tmp_path / "other", driver)
    other.linux["namespaces"] = [{"type": "mount"}] + [
        {"type": kind, "path": f"/proc/{pid}/ns/{name}"}
        for kind, name in (("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
    ]
    other.config["hostname"] = ""
    output = other.sh(
        "hostname; echo; ps -o comm; for n in pid net ipc; do readlink /proc/self/ns/$n; done"
    )
    assert output.split()[0] == "box"
    # And nothing of the host's: /proc is the joined namespace's.
    assert sorted(output.split()[1:-3]) == ["COMMAND", "ps", "sh", "sleep"]
    theirs = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("pid", "net", "ipc")]
    assert output.split()[-3:] == theirs
    other.close()


def test_namespace_path_of_another_type(box: Box) -> None:
    box.linux["namespaces"][1] = {"type": "network", "path": "/proc/self/ns/uts"}
    with pytest.raises(Failed, match="is not a network namespace"):
        box.create()


def test_time_namespace(box: Box) -> None:
    box.linux["namespaces"].append({"type": "time"})
    box.linux["timeOffsets"] = {"boottime": {"secs": 864000}, "monotonic": {"secs": 5}}
    uptime = float(box.sh("cat /proc/uptime").split()[0])
    assert uptime > 864000


def test_cgroup_holds_the_processes_and_their_limits(box: Box) -> None:
    box.linux["resources"] = {"pids": {"limit": 17}}
    box.mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro", type_="cgroup")
    pid = box.start("sh", "-c", "cat /sys/fs/cgroup/pids/pids.max; sleep 100")
    manager = cgroups.manager(f"{CGROUP_PARENT}/{box.id}")
    assert pid in manager.pids()
    assert box.exec("sh", "-c", "cat /proc/self/cgroup | cut -d: -f3 | sort -u").output == "/\n"
    assert box.exec("touch", "/sys/fs/cgroup/pids/x").code == 1


@requires("overlay")
def test_root_from_overlay_is_only_in_the_container(box: Box) -> None:
    for name in ("upper", "work"):
        (box.directory / name).mkdir()
    layers = [box.directory / f"layer-{'x' * 120}-{number}" for number in range(3)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"from{number}").write_text("")
    lower = box.rootfs.rename(box.bundle / "lower")
    box.rootfs.mkdir()
    options = [
        "lowerdir=" + ":".join(map(str, [*layers, lower])),
        f"upperdir={box.directory}/upper",
        f"workdir={box.directory}/work",
    ]
    mount = {"destination": "/", "type": "overlay", "source": "overlay", "options": options}
    names = box.sh("echo new >/new; ls /", rootfs_mounts=[mount]).split()
    assert {"from0", "from1", "from2", "bin", "new"} <= set(names)
    assert (box.directory / "upper/new").read_text() == "new\n"
    assert str(box.bundle) not in Path("/proc/self/mountinfo").read_text()


def test_state_file(box: Box) -> None:
    box.config["annotations"] = {"a": "b"}
    pid = box.create("sleep", "100")
    directory = box.state_root / box.id
    saved = json.loads((directory / "state.json").read_text())
    assert (saved["id"], saved["pid"], saved["annotations"]) == (box.id, pid, {"a": "b"})
    assert saved["bootID"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (directory.stat().st_mode & 0o777, saved["startTime"] > 0) == (0o700, True)
