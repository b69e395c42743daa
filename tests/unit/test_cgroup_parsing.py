"""Cgroup files, device rules and unit conversions, without a cgroup."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from runtime.cgroups import CgroupError, bpf, convert, files
from runtime.cgroups.detect import absolute, parse_mountinfo
from runtime.cgroups.devices import ANY, Policy, parse_list, policy, transition
from runtime.cgroups.stats import BlockIOEntry, parse_blkio, parse_io_stat
from runtime.spec import DeviceRule

DENY_ALL = DeviceRule(allow=False)
RWM = frozenset("rwm")


def rule(allow: bool, text: str) -> DeviceRule:
    kind, numbers, access = text.split()
    major, minor = (None if part == "*" else int(part) for part in numbers.split(":"))
    return DeviceRule(allow=allow, type=kind, major=major, minor=minor, access=access)


def test_mountinfo_of_a_hybrid_system() -> None:
    found = parse_mountinfo(
        "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
        "32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd\n"
        "35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n"
        "36 30 0:31 / /mnt/cpu\\040again rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n"
    )
    assert found.v2 == "/sys/fs/cgroup/unified"
    assert found.roots == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
    }


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("/longshore/x", "/longshore/x"),
        ("relative/x/", "/relative/x"),
        ("/a/../../../etc", "/etc"),
        ("/../..", ""),
    ],
)
def test_paths_stay_below_the_root(given: str, clean: str) -> None:
    assert absolute(given) == clean


# Values of runc's own test table (ConvertCPUSharesToCgroupV2Value).
@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (262144, 10000), (1024, 100), (1, 1)])
def test_cpu_weight(shares: int, weight: int) -> None:
    assert convert.cpu_weight(shares) == weight


def test_cpu_weight_grows_with_the_shares() -> None:
    weights = [convert.cpu_weight(shares) for shares in range(2, 262145, 64)]
    assert weights == sorted(weights)


def test_io_weight_ends() -> None:
    assert (convert.io_weight(10), convert.io_weight(1000)) == (1, 10000)


@pytest.mark.parametrize(
    ("swap", "limit", "written"),
    [
        (None, None, None),
        (None, -1, "max"),
        (0, 100, None),
        (-1, 100, "max"),
        (300, 100, "200"),
        (100, 100, "0"),
        (300, -1, "300"),
    ],
)
def test_swap_max(swap: int | None, limit: int | None, written: str | None) -> None:
    assert convert.swap_max(swap, limit) == written


@pytest.mark.parametrize(("swap", "limit"), [(50, 100), (50, None), (50, -5)])
def test_swap_max_refuses(swap: int, limit: int | None) -> None:
    with pytest.raises(CgroupError, match="memory"):
        convert.swap_max(swap, limit)


def test_the_last_reset_wins() -> None:
    made = policy([rule(True, "c 1:3 rwm"), DENY_ALL, rule(True, "b 8:* r")])
    assert made == Policy(False, {("b", 8, ANY): frozenset("r")})


def test_accesses_accumulate_and_are_taken_back() -> None:
    made = policy([rule(True, "c 1:3 r"), rule(True, "c 1:3 wm"), rule(False, "c 1:3 m")])
    assert made.exceptions == {("c", 1, 3): frozenset("rw")}


def test_a_hole_in_a_wildcard_is_refused() -> None:
    with pytest.raises(CgroupError, match=r"c 1:3 r is inside c 1:\* rw"):
        policy([rule(True, "c 1:* rw"), rule(False, "c 1:3 r")])


def test_a_partial_rule_for_all_types_counts_for_both() -> None:
    made = policy([rule(True, "a *:* m")])
    assert set(made.exceptions) == {("c", ANY, ANY), ("b", ANY, ANY)}


@pytest.mark.parametrize("text", ["c 1:3 rx", "q 1:3 r"])
def test_bad_device_rules(text: str) -> None:
    with pytest.raises(CgroupError, match="invalid device"):
        policy([rule(True, text)])


def test_transition_grants_first_and_touches_no_more_than_needed() -> None:
    current = parse_list("c 1:3 rwm\nc 1:5 rw\nb *:* m\n")
    target = policy([rule(True, "c 1:3 rwm"), rule(True, "c 1:5 r"), rule(True, "c 9:* rwm")])
    assert list(transition(current, target)) == [
        ("devices.allow", "c 9:* rwm"),
        ("devices.deny", "c 1:5 w"),
        ("devices.deny", "b *:* m"),
    ]


def test_transition_to_allow_all() -> None:
    allow_all = DeviceRule(allow=True, type="a", access="rwm")
    writes = list(transition(parse_list("c 1:3 rwm\n"), policy([allow_all])))
    assert writes == [("devices.allow", "a *:* rwm")]


def run_bpf(code: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """An interpreter of the instructions that bpf.program emits."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    registers = [0] * 6
    counter = 0
    while True:
        op, regs, offset, value = struct.unpack_from("<BBhI", code, counter * 8)
        dst, src = regs & 15, regs >> 4
        counter += 1
        match op:
            case bpf.LDX_W:
                (registers[dst],) = struct.unpack_from("<I", context, offset)
            case bpf.AND32_K:
                registers[dst] &= value
            case bpf.RSH32_K:
                registers[dst] >>= value
            case bpf.MOV32_K:
                registers[dst] = value
            case bpf.MOV32_X:
                registers[dst] = registers[src]
            case bpf.JNE32_K:
                counter += offset if registers[dst] != value else 0
            case bpf.JEQ32_K:
                counter += offset if registers[dst] == value else 0
            case bpf.JNE32_X:
                counter += offset if registers[dst] != registers[src] else 0
            case bpf.EXIT:
                return registers[0]
            case _:
                raise AssertionError(hex(op))


READ, WRITE, MKNOD = 2, 4, 1
BLOCK, CHAR = 1, 2


@pytest.mark.parametrize(
    ("kind", "access", "major", "minor", "allowed"),
    [
        (CHAR, READ | WRITE, 1, 3, True),
        (CHAR, READ, 1, 3, True),
        (CHAR, READ | MKNOD, 1, 3, False),
        (BLOCK, READ, 1, 3, False),
        (CHAR, READ, 1, 4, False),
        (CHAR, READ | WRITE | MKNOD, 136, 77, True),
        (BLOCK, MKNOD, 5, 5, True),
        (BLOCK, READ, 5, 5, False),
    ],
)
def test_program_under_deny(kind: int, access: int, major: int, minor: int, allowed: bool) -> None:
    rules = [DENY_ALL, rule(True, "c 1:3 rw"), rule(True, "c 136:* rwm"), rule(True, "b *:* m")]
    code = bpf.program(policy(rules))
    assert run_bpf(code, kind, access, major, minor) == int(allowed)


def test_program_under_allow_refuses_what_touches_an_exception() -> None:
    allow_all = DeviceRule(allow=True)
    code = bpf.program(policy([allow_all, rule(False, "b 8:0 w")]))
    assert run_bpf(code, BLOCK, READ, 8, 0) == 1
    assert run_bpf(code, BLOCK, WRITE, 8, 0) == 0
    assert run_bpf(code, BLOCK, READ | WRITE, 8, 0) == 0
    assert run_bpf(code, BLOCK, WRITE, 8, 1) == 1


def test_blkio_lines() -> None:
    assert parse_blkio("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n") == (
        BlockIOEntry(8, 0, "Read", 4096),
        BlockIOEntry(8, 0, "Total", 4096),
    )
    assert parse_blkio("8:16 6792\n") == (BlockIOEntry(8, 16, "", 6792),)


def test_io_stat_lines() -> None:
    stats = parse_io_stat("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n")
    assert stats.io_service_bytes_recursive == (
        BlockIOEntry(8, 0, "read", 10),
        BlockIOEntry(8, 0, "write", 20),
    )
    assert [entry.value for entry in stats.io_serviced_recursive] == [1, 2]


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("-1\n", None), ("9223372036854771712\n", None), ("4096\n", 4096)],
)
def test_limits(tmp_path: Path, text: str, limit: int | None) -> None:
    path = tmp_path / "limit"
    path.write_text(text)
    assert files.read_limit(str(path)) == limit
    assert files.read_limit(str(tmp_path / "missing")) is None


def test_reads_are_whole_also_when_long(tmp_path: Path) -> None:
    path = tmp_path / "procs"
    path.write_text("12345\n" * 30000)
    assert len(files.read(str(path)).split()) == 30000


def test_a_failed_write_names_the_file() -> None:
    with pytest.raises(OSError, match="/dev/full"):
        files.write("/dev/full", "1")
