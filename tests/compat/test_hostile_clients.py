"""Requests that try to be two, names that try to be paths, and who may connect over TCP."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine import BUSYBOX, Engine, OwnEngine
from tests.token_service import make_certificate

POST = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /_ping HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
# What two parsers may divide differently.
SMUGGLED = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "odd encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "signed chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "folded header": GET + b"X-A: b\r\n Content-Length: 5\r\n\r\n",
    "blank before the colon": GET + b"Content-Length : 5\r\n\r\n",
    "NUL": GET + b"X-A: a\0b\r\n\r\n",
    "bare CR": GET + b"X-A: a\rContent-Length: 5\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "upgrade": b"POST /containers/x/attach?stream=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n"
    b"Connection: Upgrade\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


def exchange(engine: Engine, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(engine.socket))
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("kind", SMUGGLED)
def test_ambiguous_requests_are_refused(own_engine: OwnEngine, kind: str) -> None:
    """Refused, and the connection ends: nothing behind is taken for a request."""
    answer = exchange(own_engine, SMUGGLED[kind] + SECOND)
    assert answer.split(b" ", 2)[1] == b"400"
    assert b"ApiVersion" not in answer
    assert b"ApiVersion" in exchange(own_engine, SECOND)


def test_large_and_deep_bodies(own_engine: OwnEngine) -> None:
    json = {"Content-Type": "application/json"}
    # Not much more than the limit: the engine reads it all, so that sending it cannot fail.
    big = b'{"Image": "' + b"a" * (16 << 20) + b'"}'
    assert own_engine.api("POST", "/containers/create", big, json).status == 413
    assert own_engine.api("POST", "/containers/create", b"[" * 200_000, json).status == 400


PATHS = ("..", "../x", "../../../etc/passwd", "a/b", "/etc", "a\n", "a\0b")


@pytest.mark.parametrize("name", PATHS)
def test_names_are_no_paths(engine: Engine, name: str) -> None:
    """They lead to sockets, directories and programs of the host."""
    assert engine.api("POST", "/volumes/create", {"Name": name}).status == 400
    answer = engine.api("POST", "/volumes/create", {"Name": "t-hostile", "Driver": name})
    assert answer.status in (400, 404), answer.body
    for host in (
        {"Runtime": name},
        {"LogConfig": {"Type": name, "Config": {}}},
        {"IpcMode": f"container:{name}"},
        {"VolumesFrom": [name]},
    ):
        body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": host}
        answer = engine.api("POST", "/containers/create", body)
        assert answer.status in (400, 404), (host, answer.body)


@pytest.mark.parametrize("address", ["..", "../../../etc", "file:///etc", "127.0.0.1:1/\r\nX: y"])
def test_registries_are_hosts(own_engine: OwnEngine, address: str) -> None:
    """They are directories' names in certs.d."""
    auth = {"username": "u", "password": "p", "serveraddress": address}
    answer = own_engine.api("POST", "/auth", auth)
    assert (answer.status, b"unable to parse server address" in answer.body) == (400, True)


def test_security_options_are_not_read_from_the_host(engine: Engine, name: str) -> None:
    """The client sends a profile's content; a path in its place is no JSON."""
    host = {"SecurityOpt": ["seccomp=/etc/passwd"]}
    body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": host}
    assert engine.api("POST", f"/containers/create?name={name}", body).status == 201
    answer = engine.api("POST", f"/containers/{name}/start")
    assert answer.status == 500
    assert b"Decoding seccomp profile failed" in answer.body
    assert b"root:" not in answer.body


CGROUPS = """
for d in /sys/fs/cgroup /sys/fs/cgroup/*; do
  mkdir $d/x 2>&- && echo made $d
  for f in release_agent notify_on_release cgroup.procs memory.max; do
    (: >>$d/$f) 2>&- && echo writable $d/$f
  done
done
mount -t cgroup -o memory x /mnt 2>&- && echo mounted
mount -t cgroup2 x /mnt 2>&- && echo mounted
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper; do
  (: >>$f) 2>&- && echo writable $f
done
echo end
"""


@pytest.mark.parametrize("options", [(), ("--cgroupns", "host"), ("--cap-add", "SYS_PTRACE")])
def test_nothing_of_the_kernel_is_writable(engine: Engine, options: tuple[str, ...]) -> None:
    """CVE-2022-0492 and its like."""
    done = engine.docker("run", "--rm", *options, BUSYBOX, "sh", "-c", CGROUPS)
    assert done.stdout == "end\n"


def test_control_characters_make_no_lines(engine: Engine) -> None:
    for fields in ({"Hostname": "a\n6.6.6.6 b"}, {"HostConfig": {"DnsSearch": ["a\nb"]}}):
        answer = engine.api("POST", "/containers/create", {"Image": BUSYBOX, **fields})
        assert answer.status == 400


@pytest.fixture(scope="module")
def guarded(
    make_engine: Callable[..., OwnEngine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """An engine on TCP with --tlsverify: its host, and a directory of certificates."""
    directory = tmp_path_factory.mktemp("tls")
    for name in ("server", "client", "stranger"):
        make_certificate(directory, name)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = make_engine(
        *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify"),
        *("--tlscacert", str(directory / "client.cert")),
        *("--tlscert", str(directory / "server.cert"), "--tlskey", str(directory / "server.key")),
    )
    yield f"tcp://127.0.0.1:{port}", directory
    made.destroy()


def remote(engine: Engine, host: str, *options: str) -> subprocess.CompletedProcess[str]:
    return engine.docker("-H", host, *options, "version", "-f", "{{.Server.Version}}", check=False)


def test_tls_with_client_certificates(engine: Engine, guarded: tuple[str, Path]) -> None:
    host, directory = guarded
    server = ("--tlsverify", "--tlscacert", str(directory / "server.cert"))

    def who(name: str) -> tuple[str, ...]:
        key = str(directory / f"{name}.key")
        return (*server, "--tlscert", str(directory / f"{name}.cert"), "--tlskey", key)

    good = remote(engine, host, *who("client"))
    assert good.returncode == 0, good.stderr
    for options in (who("stranger"), ("--tls",), ()):
        refused = remote(engine, host, *options)
        assert refused.returncode != 0
        assert "longshore" not in refused.stdout
