"""Test support: a proxy before a registry that misbehaves as a test wants it to."""

from __future__ import annotations

import base64
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from images.model import AuthConfig

SMALL = 1 << 20  # smaller blobs pass untouched


class Proxy:
    """Answers GET and HEAD on a port of its own; what came is in the lists."""

    def __init__(self, upstream: int) -> None:
        self.requests: list[str] = []
        self.ranges: list[str | None] = []
        self.authorizations: list[str | None] = []
        self.sizes: dict[str, int] = {}
        self.cut_after: int | None = None  # once
        self.stall_after: int | None = None
        self.corrupt = False
        self.busy: list[int] = []  # statuses to answer with first, and to try again after
        self.redirect_blobs_to: str | None = None
        self.basic_auth = False
        self.auth_config = AuthConfig(username="user", password="secret")
        self.released = threading.Event()
        proxy = self

        class Handler(_Handler):
            def __init__(self, *args: object) -> None:
                self.proxy, self.upstream = proxy, upstream
                super().__init__(*args)  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def expected_authorization(self) -> str:
        pair = f"{self.auth_config.username}:{self.auth_config.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: int

    def do_GET(self) -> None:
        proxy = self.proxy
        proxy.requests.append(self.path)
        proxy.authorizations.append(self.headers.get("Authorization"))
        if proxy.basic_auth and self.headers.get("Authorization") != proxy.expected_authorization:
            self._plain(401, {"WWW-Authenticate": 'Basic realm="lab"'})
            return
        if proxy.busy and "/blobs/" in self.path:
            self._plain(proxy.busy.pop(0), {"Retry-After": "1"})
            return
        if "/blobs/" in self.path and proxy.redirect_blobs_to:
            self._plain(307, {"Location": f"http://{proxy.redirect_blobs_to}{self.path}"})
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream)
        kept = ("accept", "range")
        headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
        connection.request("GET", self.path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        self.send_response(response.status)
        for key, value in response.getheaders():
            if key.lower() in ("content-type", "content-length", "content-range"):
                self.send_header(key, value)
        self.end_headers()
        self._body(body)

    def _plain(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _body(self, body: bytes) -> None:
        proxy = self.proxy
        if "/blobs/" not in self.path or len(body) < SMALL:
            self.wfile.write(body)
            proxy.sizes[self.path] = len(body)
            return
        proxy.sizes[self.path] = len(body)
        proxy.ranges.append(self.headers.get("Range"))
        if proxy.corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        if proxy.cut_after is not None:
            body, proxy.cut_after = body[: proxy.cut_after], None
            self.close_connection = True
        if proxy.stall_after is not None:
            self.wfile.write(body[: proxy.stall_after])
            self.wfile.flush()
            proxy.released.wait(30)
            self.close_connection = True
            return
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_args: object) -> None:
        pass
