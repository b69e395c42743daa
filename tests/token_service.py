"""Test support: certificates by openssl, and the token service that a registry sends clients to.

The service signs what docker-registry verifies: JSON web tokens by RS256, with the certificate in
their header. It knows one user, gives anonymous clients the right to pull, and counts who came how.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "user", "secret"
ISSUER, SERVICE = "token service of the tests", "registry of the tests"
REFRESH_TOKEN = "refresh-me"


def make_certificate(
    directory: Path, name: str, *, subject: str = "127.0.0.1"
) -> tuple[Path, Path]:
    """A self-signed certificate for an address of the loopback, and its key."""
    certificate, key = directory / f"{name}.cert", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={subject}", "-addext", f"subjectAltName=IP:{subject}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenService:
    def __init__(self, directory: Path) -> None:
        self.certificate, self._key = make_certificate(directory, "token")
        self.requests: list[dict[str, str]] = []
        self.seconds = 300  # that its tokens are good for
        service = self

        class Handler(_Handler):
            def __init__(self, *args: object) -> None:
                self.service = service
                super().__init__(*args)  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def registry_section(self) -> dict[str, Any]:
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.certificate),
            }
        }

    def __enter__(self) -> TokenService:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sign(self, user: str, scopes: list[str]) -> str:
        """A token for the parts of ``scopes`` that the user may have: all, or pull for nobody."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            granted = actions.split(",") if user else ["pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        lines = self.certificate.read_text().splitlines()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines[1:-1])]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + self.seconds,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        done = subprocess.run(command, input=signed.encode(), capture_output=True, check=True)
        return f"{signed}.{encoded(done.stdout)}"


class _Handler(BaseHTTPRequestHandler):
    service: TokenService

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        authorization = self.headers.get("Authorization", "")
        user = ""
        if authorization:
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            user = pair.partition(":")[0]
            if pair != f"{USER}:{PASSWORD}":
                self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]})
                return
        self._note("basic" if user else "anonymous", query)
        refresh = {"refresh_token": REFRESH_TOKEN} if query.get("offline_token") else {}
        self._token(user, query, refresh)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if form.get("refresh_token") != [REFRESH_TOKEN]:
            self._answer(401, {"error": "invalid_grant"})
            return
        self._note("refresh", form)
        self._token(USER, form, {})

    def _token(self, user: str, query: dict[str, list[str]], more: dict[str, str]) -> None:
        scopes = [part for text in query.get("scope", ()) for part in text.split()]
        token = self.service.sign(user, scopes)
        self._answer(200, {"token": token, "expires_in": self.service.seconds, **more})

    def _note(self, how: str, query: dict[str, list[str]]) -> None:
        known = {key: " ".join(values) for key, values in query.items()}
        self.service.requests.append({"how": how, **known})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass
