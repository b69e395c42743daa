"""Test support: HTTP over a unix socket with nothing between the test and the bytes.

docker-py and the docker command hide headers, reason phrases and framing; what this returns is what
the engine sent. ``hijack`` is the part of Docker's protocol that is no HTTP any more.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


def filters(**values: list[str]) -> str:
    """The query parameter of list calls."""
    return "filters=" + urllib.parse.quote(json.dumps(values))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self.path)
        except OSError:
            self.close()
            raise


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    reason: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def objects(self) -> list[Any]:
        """The JSON objects of a progress stream."""
        return [json.loads(line) for line in self.body.splitlines() if line.strip()]

    @property
    def message(self) -> str:
        """The text of an error answer."""
        return str(self.json()["message"])


Body = bytes | str | Mapping[str, Any] | list[Any] | None


def encode(body: Body, headers: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    """JSON for what is not bytes or text already, with the content type that goes with it."""
    out = dict(headers or {})
    if body is None or isinstance(body, bytes):
        return body, out
    if not any(name.lower() == "content-type" for name in out):
        out["Content-Type"] = "application/json"
    return body.encode() if isinstance(body, str) else json.dumps(body).encode(), out


def request(
    path: str,
    method: str,
    target: str,
    body: Body = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 30.0,
) -> Response:
    data, sent = encode(body, headers)
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target, data, sent)
        answer = connection.getresponse()
        received = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, answer.reason, received, answer.read())
    finally:
        connection.close()


class Hijacked:
    """A connection after its HTTP head: raw bytes both ways."""

    def __init__(self, sock: socket.socket, head: str, rest: bytes) -> None:
        self.sock = sock
        self.head = head
        self._buffer = rest

    @property
    def status(self) -> int:
        return int(self.head.split(" ", 2)[1])

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def read_until(self, needle: bytes) -> bytes:
        while needle not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                raise AssertionError(f"no {needle!r} in {self._buffer!r} before the end")
            self._buffer += data
        end = self._buffer.index(needle) + len(needle)
        out, self._buffer = self._buffer[:end], self._buffer[end:]
        return out

    def read_all(self) -> bytes:
        while data := self.sock.recv(65536):
            self._buffer += data
        out, self._buffer = self._buffer, b""
        return out

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Stream number and content of each frame until the end of the connection."""
        while header := self._exactly(8):
            stream, length = struct.unpack(">BxxxI", header)
            yield stream, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count and (data := self.sock.recv(65536)):
            self._buffer += data
        if self._buffer and len(self._buffer) < count:
            raise AssertionError(f"the stream ends inside a frame: {self._buffer!r}")
        out, self._buffer = self._buffer[:count], self._buffer[count:]
        return out

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Hijacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hijack(
    path: str,
    target: str,
    body: Body = None,
    *,
    upgrade: bool = True,
    early: bytes = b"",
    timeout: float = 30.0,
) -> Hijacked:
    """POST ``target`` and keep the connection; ``early`` is sent in one piece with the request."""
    data, headers = encode(body, {"Host": "localhost"})
    if upgrade:
        headers |= {"Connection": "Upgrade", "Upgrade": "tcp"}
    headers["Content-Length"] = str(len(data or b""))
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (data or b"") + early)
        received = b""
        while b"\r\n\r\n" not in received:
            more = sock.recv(65536)
            if not more:
                raise AssertionError(f"connection closed after {received!r}")
            received += more
    except BaseException:
        sock.close()
        raise
    head, _, rest = received.partition(b"\r\n\r\n")
    return Hijacked(sock, head.decode(), rest)
