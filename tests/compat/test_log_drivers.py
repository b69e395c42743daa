"""Log drivers besides json-file: what arrives at a server, and what ``docker logs`` still shows."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine

SCRIPT = "echo one; echo two >&2; printf three"


class Server:
    """A socket that keeps what comes; for a stream, all connections' bytes in one."""

    def __init__(self, kind: socket.SocketKind, path: Path | None = None) -> None:
        family = socket.AF_UNIX if path else socket.AF_INET
        self.socket = socket.socket(family, kind)
        self.socket.bind(str(path) if path else ("127.0.0.1", 0))
        self.datagrams: list[bytes] = []
        self.stream = b""
        if kind == socket.SOCK_STREAM:
            self.socket.listen()
        work = self._accept if kind == socket.SOCK_STREAM else self._receive
        threading.Thread(target=work, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def _receive(self) -> None:
        try:
            while True:
                self.datagrams.append(self.socket.recv(65536))
        except OSError:
            return

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self.socket.accept()
                with connection:
                    while data := connection.recv(65536):
                        self.stream += data
        except OSError:
            return


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, Server]]:
    made = {
        "udp": Server(socket.SOCK_DGRAM),
        "tcp": Server(socket.SOCK_STREAM),
        "unixgram": Server(socket.SOCK_DGRAM, tmp_path / "gram"),
        "unix": Server(socket.SOCK_STREAM, tmp_path / "stream"),
    }
    yield made
    for server in made.values():
        server.socket.close()


def run(engine: Engine, name: str, driver: str, **options: str) -> None:
    arguments = [f"--log-opt={key.replace('_', '-')}={value}" for key, value in options.items()]
    engine.docker(
        *("run", "--name", name, "--log-driver", driver, *arguments),
        *("-e", "WHO=me", "-l", "kind=x", BUSYBOX, "sh", "-c", SCRIPT),
    )


def logs(engine: Engine, name: str) -> list[str]:
    done = engine.docker("logs", name)
    return sorted([*done.stdout.split(), *done.stderr.split()])


def test_local(own_engine: OwnEngine, name: str) -> None:
    engine = own_engine
    run(engine, name, "local")
    assert logs(engine, name) == ["one", "three", "two"]
    assert engine.inspect(name)["LogPath"] == ""


def test_local_is_rotated_and_compressed(own_engine: OwnEngine, name: str) -> None:
    engine = own_engine
    engine.docker(
        *("run", "--name", name, "--log-driver", "local", "--log-opt", "max-size=20k"),
        *("--log-opt", "max-file=3", BUSYBOX, "seq", "10000"),
    )
    directory = engine.data_root / "containers" / engine.inspect(name)["Id"]
    polling.until(  # the shim compresses when it has nothing else to do
        lambda: (
            sorted(path.name for path in directory.iterdir() if "local" in path.name)
            == ["local.log", "local.log.1.gz", "local.log.2.gz"]
        ),
        "the files to be compressed",
    )
    shown = engine.docker("logs", name).stdout.split()
    assert shown[-1] == "10000"
    assert shown == [str(number) for number in range(10001 - len(shown), 10001)]


@pytest.mark.parametrize("network", ["udp", "tcp", "unix", "unixgram"])
def test_syslog(engine: Engine, name: str, servers: dict[str, Server], network: str) -> None:
    server = servers[network]
    where = server.address if network in ("udp", "tcp") else server.socket.getsockname()
    run(
        *(engine, name, "syslog"),
        syslog_address=f"{network}://{where}",
        syslog_facility="local3",
        tag="t/{{.Name}}",
    )

    def lines() -> list[bytes]:
        return sorted(b"".join(server.datagrams).splitlines() + server.stream.splitlines())

    polling.until(lambda: len(lines()) == 3, "three messages")
    priority = 19 * 8
    assert lines()[0].startswith(b"<%d>" % (priority + 3))
    assert lines()[0].endswith(b"]: two")
    assert b" t/%s[" % name.encode() in lines()[1]
    assert lines()[1].startswith(b"<%d>" % (priority + 6))
    assert logs(engine, name) == ["one", "three", "two"]


def test_syslog_rfc5424(engine: Engine, name: str, servers: dict[str, Server]) -> None:
    server = servers["udp"]
    run(
        *(engine, name, "syslog"),
        syslog_address=f"udp://{server.address}",
        syslog_format="rfc5424micro",
    )
    polling.until(lambda: len(server.datagrams) == 3, "three messages")
    fields = min(server.datagrams, key=lambda item: item[-4:]).split()
    short = engine.inspect(name)["Id"][:12].encode()
    assert fields[0][-2:] == b">1"
    assert fields[2] == os.uname().nodename.encode()
    assert (fields[3], fields[5]) == (short, short)


def test_gelf(engine: Engine, name: str, servers: dict[str, Server]) -> None:
    server = servers["udp"]
    address = f"udp://{server.address}"
    run(engine, name, "gelf", gelf_address=address, env="WHO", labels="kind")
    polling.until(lambda: len(server.datagrams) == 3, "three messages")
    messages: list[Any] = [json.loads(gzip.decompress(item)) for item in server.datagrams]
    by_text = {message["short_message"]: message for message in messages}
    assert set(by_text) == {"one", "two", "three"}
    assert (by_text["one"]["level"], by_text["two"]["level"]) == (6, 3)
    assert by_text["one"]["_container_name"] == name
    assert (by_text["one"]["_WHO"], by_text["one"]["_kind"]) == ("me", "x")
    assert logs(engine, name) == ["one", "three", "two"]


def test_gelf_over_tcp(engine: Engine, name: str, servers: dict[str, Server]) -> None:
    server = servers["tcp"]
    run(engine, name, "gelf", gelf_address=f"tcp://{server.address}")
    polling.until(lambda: server.stream.count(b"\0") == 3, "three messages")
    first = json.loads(server.stream.split(b"\0")[0])
    assert first["version"] == "1.1"


def test_fluentd(engine: Engine, name: str, servers: dict[str, Server]) -> None:
    server = servers["tcp"]
    run(engine, name, "fluentd", fluentd_address=server.address, tag="docker.x", env="WHO")
    polling.until(lambda: server.stream.count(b"docker.x") == 3, "three messages")
    # An array of three, the tag, a time, a map of five.
    assert server.stream.startswith(b"\x93\xa8docker.x\xce")
    assert server.stream[15] == 0x85
    for text in (b"\xa3log\xa3one", b"\xa3log\xa5three", b"\xa6source\xa6stderr", b"\xa3WHO\xa2me"):
        assert text in server.stream


def test_server_that_is_not_there(engine: Engine, name: str) -> None:
    with socket.socket() as silent:  # has the port, and does not listen
        silent.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*silent.getsockname())
        for driver, option, text in (
            ("fluentd", f"fluentd-address={address}", "connect: connection refused"),
            ("gelf", f"gelf-address=tcp://{address}", "gelf: cannot connect to GELF endpoint"),
            ("syslog", f"syslog-address=tcp://{address}", "connect: connection refused"),
        ):
            done = engine.docker(
                *("run", "--rm", "--log-driver", driver, "--log-opt", option, BUSYBOX, "true"),
                check=False,
            )
            assert "failed to initialize logging driver" in done.stderr
            assert text in done.stderr


def test_a_server_that_hangs_stops_no_container(engine: Engine, name: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    address = "{}:{}".format(*listener.getsockname())
    done = engine.docker(
        *("run", "--name", name, "--log-driver", "syslog"),
        *("--log-opt", f"syslog-address=tcp://{address}", "--log-opt", "mode=non-blocking"),
        *("--log-opt", "max-buffer-size=64k", BUSYBOX, "seq", "300000"),
    )
    assert done.stdout.endswith("300000\n")
    listener.close()


def test_without_the_cache_there_is_nothing_to_read(
    engine: Engine, name: str, servers: dict[str, Server]
) -> None:
    address = f"udp://{servers['udp'].address}"
    run(engine, name, "syslog", syslog_address=address, cache_disabled="true")
    done = engine.docker("logs", name, check=False)
    assert "configured logging driver does not support reading" in done.stderr
