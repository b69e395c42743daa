"""The log driver journald, against a journal's socket in the engine's own mount namespace."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import polling
from tests.engine import BUSYBOX, OwnEngine, fresh_name

# What is run before the engine: the journal's directory is the test's from then on.
HIDE = (
    "mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/journal && "
    'ln -s "$0" /run/systemd/journal/socket && exec "$@"'
)


class Journal:
    """A datagram socket that keeps the entries that come, as systemd-journald would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def entry(self) -> dict[str, bytes]:
        return parse(self.socket.recv(1 << 17))


def parse(data: bytes) -> dict[str, bytes]:
    """The native protocol: ``NAME=value``, or the name, a length and the value."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        fields[name.decode()] = value
        data = rest
    return fields


class Hidden(OwnEngine):
    """An engine that finds the test's journal where it looks for the machine's."""

    def __init__(self, scratch: Path, journal: Journal) -> None:
        super().__init__(scratch)
        self.journal = journal

    def command(self) -> list[str]:
        hidden = ["unshare", "-m", "--propagation", "private", "sh", "-c", HIDE]
        return [*hidden, str(self.journal.path), *super().command()]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hidden]:
    directory = tmp_path_factory.mktemp("journald")
    journal = Journal(directory / "socket")
    engine = Hidden(directory, journal)
    try:
        engine.start()
        engine.load_busybox()
        yield engine
    finally:
        engine.destroy()
        journal.socket.close()


def test_entries(hidden: Hidden) -> None:
    name = fresh_name()
    options = ["--log-opt", "tag=t/{{.Name}}", "--log-opt", "env=WHO", "--log-opt", "labels=kind"]
    hidden.docker(
        *("run", "--name", name, "--log-driver", "journald", *options, "-e", "WHO=me"),
        *("-l", "kind=x", BUSYBOX, "sh", "-c", "echo one; sleep 0.2; echo two >&2; printf three"),
    )
    entries = [hidden.journal.entry() for _ in range(3)]
    by_text = {entry["MESSAGE"]: entry for entry in entries}
    assert set(by_text) == {b"one", b"two", b"three"}
    assert [by_text[text]["PRIORITY"] for text in (b"one", b"two")] == [b"6", b"3"]
    shown = hidden.inspect(name)
    first = by_text[b"one"]
    days = {shown["State"][moment][:11].encode() for moment in ("StartedAt", "FinishedAt")}
    assert first.pop("SYSLOG_TIMESTAMP")[:11] in days
    assert first == {
        "MESSAGE": b"one",
        "PRIORITY": b"6",
        "CONTAINER_ID": shown["Id"][:12].encode(),
        "CONTAINER_ID_FULL": shown["Id"].encode(),
        "CONTAINER_NAME": name.encode(),
        "CONTAINER_TAG": f"t/{name}".encode(),
        "IMAGE_NAME": BUSYBOX.encode(),
        "SYSLOG_IDENTIFIER": f"t/{name}".encode(),
        "WHO": b"me",
        "KIND": b"x",
    }
    assert shown["HostConfig"]["LogConfig"]["Type"] == "journald"
    assert shown["LogPath"] == ""


def test_docker_logs(hidden: Hidden) -> None:
    name = fresh_name()
    hidden.docker("run", "--name", name, "--log-driver", "journald", BUSYBOX, "seq", "5")
    assert hidden.docker("logs", name).stdout == "1\n2\n3\n4\n5\n"
    assert hidden.docker("logs", "-n", "2", name).stdout == "4\n5\n"
    assert [hidden.journal.entry()["MESSAGE"] for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]
    with hidden.spawn("logs", "-f", name) as client:
        assert client.stdout
        assert client.stdout.read() == b"1\n2\n3\n4\n5\n"


def test_long_lines_are_in_parts(hidden: Hidden) -> None:
    hidden.docker(
        *("run", "--rm", "--log-driver", "journald", BUSYBOX, "sh", "-c"),
        "head -c 20000 /dev/zero | tr '\\0' x; echo; printf 'a\\rb\\n'",
    )
    parts = [hidden.journal.entry() for _ in range(2)]
    assert [len(part["MESSAGE"]) for part in parts] == [16384, 20000 - 16384]
    assert [part.get("CONTAINER_PARTIAL_MESSAGE") for part in parts] == [b"true", None]
    assert hidden.journal.entry()["MESSAGE"] == b"a\rb"


def test_a_journal_that_hangs_stops_nobody(hidden: Hidden) -> None:
    # Nobody reads: the kernel takes a few datagrams, the shim keeps 1 MB, the rest is lost.
    done = hidden.docker("run", "--rm", "--log-driver", "journald", BUSYBOX, "seq", "50000")
    assert done.stdout.endswith("50000\n")
    hidden.journal.socket.setblocking(False)

    def drained() -> bool:
        while True:
            try:
                hidden.journal.entry()
            except BlockingIOError:
                return True

    polling.until(drained, "the socket to be empty")
    hidden.journal.socket.settimeout(10)
