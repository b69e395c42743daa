"""The reader of json-file logs on real files, also while the shim's writer rotates them."""

from __future__ import annotations

import asyncio
import gzip
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_api.log_format import LogOptions, Renderer, details, fixed_time, parse_lines
from compat_api.log_reader import read_log
from compat_api.log_segments import PlainSegment, open_segments, skip_to_tail
from shim.logfile import LogConfig, LogFile

DEADLINE = 20.0


def entry(text: str, stream: str = "stdout", at: str = "2026-11-21T05:00:00.5Z") -> bytes:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{"log":"{escaped}","stream":"{stream}","time":"{at}"}}\n'.encode()


def unframe(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while data:
        number, length = struct.unpack(">BxxxI", data[:8])
        frames.append((number, data[8 : 8 + length]))
        assert len(frames[-1][1]) == length
        data = data[8 + length :]
    return frames


def texts(data: bytes) -> list[bytes]:
    return [text for _, text in unframe(data)]


async def collect(path: Path, **options: object) -> bytes:
    chosen = LogOptions(**options)  # type: ignore[arg-type]
    return b"".join([block async for block in read_log(path, chosen, framed=True)])


class Idle:
    """Stands for the shim's loop: runs the steps of a compression when told to."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], bool]] = []

    def __call__(self, step: Callable[[], bool]) -> None:
        self.steps.append(step)

    def run(self, most: int = 1000) -> None:
        while self.steps and most:
            most -= 1
            if not self.steps[0]():
                self.steps.pop(0)


def test_frames_have_docker_headers() -> None:
    lines = entry("out\n") + entry("err\n", "stderr") + entry("part")
    rendered = Renderer(LogOptions(), framed=True).render(lines)
    assert unframe(rendered) == [(1, b"out\n"), (2, b"err\n"), (1, b"part")]


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        "",
        "plain\n",
        'a "quoted" word\n',
        "back\\slash\n",
        "back\\n",
        "\\\n",
        "no newline",
        "ü\n",
        '","\n',
    ],
)
def test_runs_are_rendered_like_single_lines(odd: str, *, framed: bool, timestamps: bool) -> None:
    body = [f"line {number}\n" for number in range(20)]
    body.insert(7, odd)
    run = b"".join(map(entry, body)) + entry("e\n", "stderr") + b"".join(map(entry, body))
    options = LogOptions(timestamps=timestamps)
    at_once = Renderer(options, framed=framed).render(run)
    single = Renderer(options, framed=framed)
    assert at_once == b"".join(single.render(line + b"\n") for line in run.split(b"\n")[:-1])


def test_interleaved_streams_of_one_instant_keep_their_order() -> None:
    pairs = [("stdout" if n % 3 else "stderr", f"{n}\n") for n in range(60)]
    lines = b"".join(entry(text, stream) for stream, text in pairs)
    frames = unframe(Renderer(LogOptions(), framed=True).render(lines))
    assert frames == [(1 if s == "stdout" else 2, t.encode()) for s, t in pairs]


def test_stream_choice_and_tty() -> None:
    lines = b"".join(entry(f"{n}\n") for n in range(10)) + entry("e\n", "stderr")
    assert Renderer(LogOptions(stdout=False), framed=False).render(lines) == b"e\n"
    assert Renderer(LogOptions(stderr=False), framed=False).render(lines).split() == [
        b"%d" % n for n in range(10)
    ]


def test_timestamps_have_nine_digits_and_details_are_sorted() -> None:
    line = (
        b'{"log":"x\\n","stream":"stdout","attrs":{"z":"b r","a":"1"},'
        b'"time":"2026-01-02T03:04:05Z"}\n'
    )
    options = LogOptions(timestamps=True, details=True)
    rendered = Renderer(options, framed=False).render(line)
    assert rendered == b"2026-01-02T03:04:05.000000000Z a=1,z=b+r x\n"
    assert details(None) == ""


def test_fixed_time() -> None:
    assert fixed_time("2026-01-02T03:04:05.12Z") == "2026-01-02T03:04:05.120000000Z"
    assert fixed_time("2026-01-02T04:04:05.12+01:00") == "2026-01-02T03:04:05.120000000Z"


def test_since_and_until_are_inclusive() -> None:
    times = [f"2026-01-01T00:00:0{n}Z" for n in range(5)]
    lines = b"".join(entry(f"{n}\n", at=at) for n, at in enumerate(times))
    start = 1767225600
    options = LogOptions(since=(start + 1) * 10**9, until=(start + 3) * 10**9)
    renderer = Renderer(options, framed=False)
    assert renderer.render(lines) == b"1\n2\n3\n"
    assert renderer.finished


def test_torn_lines_are_left_out() -> None:
    lines = (
        entry("a\n")
        + b'{"log":"torn'
        + entry("b\n")
        + b'{"log":"x\n'
        + b"\n"
        + b"[1]\n"
        + entry("c\n")
    )
    assert [record["log"] for record in parse_lines(lines)] == ["a\n", "b\n", "c\n"]


async def test_half_written_line_waits_for_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = entry("second\n")
    path.write_bytes(entry("first\n") + line[:20])
    assert texts(await collect(path)) == [b"first\n"]
    segment = PlainSegment.open(str(path))
    assert segment.read() == entry("first\n")
    assert segment.read() == b""
    with path.open("ab") as file:
        file.write(line[20:])
    assert segment.read() == line
    segment.close()


async def test_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry("a\n") * 3)
    segment = PlainSegment.open(str(path))
    segment.read()
    os.truncate(path, 0)
    assert segment.read() == b""
    path.write_bytes(entry("b\n"))
    assert segment.read() == entry("b\n")
    segment.close()


@pytest.mark.parametrize("compressed", [False, True])
async def test_reads_rotated_files_oldest_first(tmp_path: Path, *, compressed: bool) -> None:
    path = tmp_path / "log"
    for number in (3, 2, 1):
        content = b"".join(entry(f"{number}-{n}\n") for n in range(1000))
        if compressed:
            path.with_name(f"log.{number}.gz").write_bytes(gzip.compress(content))
        else:
            path.with_name(f"log.{number}").write_bytes(content)
    path.write_bytes(entry("0-0\n") + entry("0-1\n"))
    expected = [f"{n}-{m}\n".encode() for n in (3, 2, 1) for m in range(1000)] + [
        b"0-0\n",
        b"0-1\n",
    ]
    assert texts(await collect(path)) == expected
    for tail in (0, 1, 2, 3, 1002, 1003, 2001, 3002, 5000):
        assert texts(await collect(path, tail=tail)) == expected[max(0, len(expected) - tail) :]


async def test_tail_of_a_large_file_reads_only_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = entry("x" * 1000 + "\n")
    with path.open("wb") as file:
        for number in range(2000):
            file.write(line + entry(f"{number}\n"))
        file.write(b'{"log":"torn')
    [segment] = skip_to_tail(open_segments(path), 3)
    assert isinstance(segment, PlainSegment)
    assert path.stat().st_size - segment.offset < 3000
    segment.close()
    assert texts(await collect(path, tail=3))[::2] == [b"1998\n", b"1999\n"]


async def test_no_file_is_an_empty_log(tmp_path: Path) -> None:
    assert await collect(tmp_path / "log") == b""
    assert await collect(tmp_path / "log", tail=5) == b""


async def follow(path: Path, stopped: asyncio.Future[None], **options: object) -> bytes:
    parts = []
    chosen = LogOptions(follow=True, **options)  # type: ignore[arg-type]
    async for block in read_log(path, chosen, framed=True, stopped=stopped):
        parts.append(block)  # noqa: PERF401 what came before a failure is wanted
    return b"".join(parts)


@pytest.mark.parametrize(("max_file", "compress"), [(1, False), (4, False), (4, True)])
async def test_follower_sees_each_line_once_across_rotations(
    tmp_path: Path, max_file: int, *, compress: bool
) -> None:
    path = tmp_path / "log"
    idle = Idle()
    log = LogFile(
        LogConfig("json-file", str(path), max_size=20_000, max_file=max_file, compress=compress),
        idle,
    )
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[bytes] = []

    async def reader() -> None:
        options = LogOptions(follow=True)
        async for block in read_log(path, options, framed=True, stopped=stopped):
            seen.extend(texts(block))

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(reader())
        for number in range(2000):
            log.write("stdout", f"{number} {'y' * (number % 90)}\n".encode())
            if number % 7 == 0:
                idle.run(most=1)
            # The reader keeps up to within one file: what is deleted before it is read is lost.
            while number - len(seen) > 40:  # noqa: ASYNC110
                await asyncio.sleep(0)
        log.close()
        stopped.set_result(None)
    assert [int(text.split()[0]) for text in seen] == list(range(2000))
    assert len(os.listdir(tmp_path)) == max_file


@pytest.mark.parametrize("compress", [False, True])
async def test_follower_catches_up_over_several_rotations(
    tmp_path: Path, *, compress: bool
) -> None:
    path = tmp_path / "log"
    idle = Idle()
    log = LogFile(
        LogConfig("json-file", str(path), max_size=20_000, max_file=8, compress=compress), idle
    )
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    log.write("stdout", b"0\n")
    blocks = read_log(path, LogOptions(follow=True), framed=True, stopped=stopped)
    async with asyncio.timeout(DEADLINE):
        seen = texts(await anext(blocks))
        for number in range(1, 900):
            log.write("stdout", f"{number}\n".encode())
            idle.run(most=1)
        assert len(os.listdir(tmp_path)) >= 4
        log.close()
        stopped.set_result(None)
        async for block in blocks:
            seen += texts(block)
    assert [int(text) for text in seen] == list(range(900))


async def test_follower_ends_at_once_when_stopped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry("a\n") + b'{"log":"torn')
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(follow(path, stopped, tail=1))
    await asyncio.sleep(0)
    stopped.set_result(None)
    async with asyncio.timeout(DEADLINE):
        assert texts(await task) == [b"a\n"]


async def test_follower_waits_for_a_file_and_until_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    until = time.time_ns() + 300_000_000
    task = asyncio.create_task(follow(path, stopped, until=until))
    await asyncio.sleep(0)
    path.write_bytes(entry("a\n"))
    async with asyncio.timeout(DEADLINE):
        assert texts(await task) == [b"a\n"]
    assert time.time_ns() >= until


async def test_cancelled_reader_closes_its_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry("a\n"))
    before = len(os.listdir("/proc/self/fd"))
    stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(follow(path, stopped)) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    deadline = time.monotonic() + DEADLINE
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
