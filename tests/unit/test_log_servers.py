"""Messages to log servers: what an image or a line of output says is not who it is."""

from __future__ import annotations

from lifecycle import log_servers
from lifecycle._pb import containers_pb2 as pb
from shim.remoteformats import Line, RemoteConfig, encode

RECORD = pb.Container(id="ab" * 32, name="mine")
LABELS = {
    "message": "forged",
    "priority": "0",
    "container_id": "forged",
    "Container.Name": "forged",
    "a\nMESSAGE=forged": "x",
    "note": "one\nMESSAGE=forged",
    "_": "x",
}


def line(text: bytes) -> Line:
    return Line(stream="stdout", text=text, nanoseconds=1_700_000_000_000_000_000, partial=False)


def journal_fields(data: bytes) -> list[tuple[bytes, bytes]]:
    """As the journal reads them."""
    found = []
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if equals:
            data = rest
        else:
            length = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + length], rest[9 + length :]
        found.append((name, value))
    return found


def test_journal() -> None:
    config = RemoteConfig(
        driver="journald",
        network="unixgram",
        address="",
        fields=log_servers._journal_fields(RECORD, "tag\nMESSAGE=forged", LABELS),
    )
    (data,) = encode(config, line(b"true\x00\x1b[2J"))
    fields = journal_fields(data)
    assert len(fields) == len(dict(fields))
    assert dict(fields) == {
        b"MESSAGE": b"true\x00\x1b[2J",
        b"PRIORITY": b"6",
        b"SYSLOG_TIMESTAMP": b"2023-11-14T22:13:20Z",
        b"CONTAINER_ID": b"ab" * 6,
        b"CONTAINER_ID_FULL": b"ab" * 32,
        b"CONTAINER_NAME": b"mine",
        b"CONTAINER_TAG": b"tag\nMESSAGE=forged",
        b"SYSLOG_IDENTIFIER": b"tag\nMESSAGE=forged",
        b"IMAGE_NAME": b"",
        b"A_MESSAGE_FORGED": b"x",
        b"NOTE": b"one\nMESSAGE=forged",
    }


def test_gelf() -> None:
    fields = log_servers._gelf_fields(RECORD, "tag", LABELS)
    assert fields["_container_id"] == "ab" * 32
    assert fields["_note"] == LABELS["note"]


def test_syslog_is_one_line() -> None:
    config = RemoteConfig(driver="syslog", network="tcp", address="", tag="mine", hostname="host")
    (data,) = encode(config, line(b"<0>forged \x00\r"))
    assert data.startswith(b"<30>")
    assert data.count(b"\n") == 1
