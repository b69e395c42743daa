"""shim/logfile.py: rotation, compression, torn lines, a full disk."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.logfile import LogConfig, LogFile


class Idle:
    """Stands for the loop: keeps the steps and runs them when told."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], bool]] = []

    def add(self, step: Callable[[], bool]) -> None:
        self.steps.append(step)

    def run(self) -> None:
        while self.steps:
            self.steps = [step for step in self.steps if step()]


def texts(path: Path) -> list[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        return [json.loads(line)["log"] for line in file.read().splitlines()]


def config(path: Path, *, max_size: int | None = None, max_file: int = 1) -> LogConfig:
    return LogConfig("json-file", str(path), max_size, max_file)


def test_both_streams_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(config(path), Idle().add)
    log.write("stdout", b"a\npart")
    log.write("stderr", b"b\n")
    log.write("stdout", b"ial\nrest")
    log.close()
    assert texts(path) == ["a\n", "b\n", "partial\n", "rest"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_rotation_keeps_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(config(path, max_size=1000, max_file=50), Idle().add)
    lines = [f"line {n}\n" for n in range(300)]
    for n in range(0, 300, 7):
        log.write("stdout", "".join(lines[n : n + 7]).encode())
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda each: -int(each.suffix[1:] or 0))
    assert [text for each in files for text in texts(each)] == lines
    # As Docker: a file is full with the line that reaches the limit.
    for each in files[:-1]:
        content = each.read_bytes()
        assert len(content) >= 1000
        assert len(content) - len(content.splitlines(keepends=True)[-1]) < 1000


def test_rotation_drops_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(config(path, max_size=200, max_file=3), Idle().add)
    for n in range(40):
        log.write("stdout", b"%d\n" % n)
    log.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    last = [text for name in ("log.2", "log.1", "log") for text in texts(tmp_path / name)]
    assert last == [f"{n}\n" for n in range(40)][-len(last) :]


def test_one_file_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(config(path, max_size=200), Idle().add)
    with path.open("rb") as reader:
        for n in range(10):
            log.write("stdout", b"%d\n" % n)
        log.close()
        assert [each.name for each in tmp_path.iterdir()] == ["log"]
        # A reader of the old file still has it.
        assert b'"0\\n"' in reader.read()


def test_compression_between_other_work(tmp_path: Path) -> None:
    path, idle = tmp_path / "log", Idle()
    settings = LogConfig("json-file", str(path), max_size=100_000, max_file=3, compress=True)
    log = LogFile(settings, idle.add)
    lines = [f"line {n} {'x' * 80}\n" for n in range(2000)]
    for n, line in enumerate(lines):
        log.write("stdout", line.encode())
        if n % 100 == 0:
            idle.run()
    log.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz"]
    last = [text for name in ("log.2.gz", "log.1.gz", "log") for text in texts(tmp_path / name)]
    assert last == lines[-len(last) :]
    assert len(last) > 1000


def test_compression_that_never_gets_a_turn(tmp_path: Path) -> None:
    path, idle = tmp_path / "log", Idle()
    settings = LogConfig("json-file", str(path), max_size=10_000, max_file=4, compress=True)
    log = LogFile(settings, idle.add)
    lines = [f"line {n}\n" for n in range(2000)]
    for line in lines:
        log.write("stdout", line.encode())
        assert path.stat().st_size <= 2 * 10_000 + 200
    log.close()
    names = ["log.3.gz", "log.2.gz", "log.1.gz", "log"]
    last = [text for name in names for text in texts(tmp_path / name)]
    assert last == lines[-len(last) :]


def test_torn_line_of_a_killed_shim_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"whole\\n","stream":"stdout","time":"t"}\n{"log":"to')
    log = LogFile(config(path), Idle().add)
    log.write("stdout", b"next\n")
    log.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["log"] == "next\n"


def test_full_disk_drops_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    log = LogFile(config(path), Idle().add)
    log.write("stdout", b"before\n")
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real_write(fd, data[:100])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.write("stdout", b"lost 1\nlost 2\n")
    assert log.dropped == 2
    log.write("stdout", b"after\n")
    log.close()
    assert texts(path) == ["before\n", "after\n"]


def test_log_is_no_symlink(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        LogFile(config(tmp_path / "log"), Idle().add)
