"""Test support: a volume plugin of Docker's protocol v1, as a process of its own.

``python -m tests.volume_plugin <socket> <directory>``: each volume is a directory below
``directory``. It writes every call to ``<directory>/calls``, one JSON object a line.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socketserver
import sys
from pathlib import Path
from typing import Any


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = json.loads(body) if body.strip() else {}
        method = self.path.removeprefix("/")
        root: Path = self.server.root  # type: ignore[attr-defined]
        with (root / "calls").open("a") as calls:
            print(json.dumps([method, request]), file=calls)
        try:
            answer = self.answer(method.rpartition(".")[2], request, root / "volumes")
        except KeyError as error:
            answer = {"Err": str(error.args[0])}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, method: str, request: dict[str, Any], volumes: Path) -> dict[str, Any]:
        name = request.get("Name", "")
        place = volumes / name
        if method == "Activate":
            return {"Implements": ["VolumeDriver"]}
        if method == "Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        if method == "List":
            return {"Volumes": [{"Name": item.name} for item in volumes.iterdir()], "Err": ""}
        if method == "Create":
            if "refuse" in (request.get("Opts") or {}):
                raise KeyError("refused as asked")
            place.mkdir()
            return {"Err": ""}
        if not place.is_dir():
            raise KeyError(f"no volume {name}")
        if method == "Remove":
            shutil.rmtree(place)
        if method in ("Mount", "Path"):
            return {"Mountpoint": str(place), "Err": ""}
        if method == "Get":
            found = {"Name": name, "Mountpoint": str(place), "Status": {"mood": "good"}}
            return {"Volume": found, "Err": ""}
        return {"Err": ""}

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, root: Path) -> None:
        self.root = root
        (root / "volumes").mkdir(parents=True, exist_ok=True)
        super().__init__(path, Handler)


if __name__ == "__main__":
    if os.path.exists(sys.argv[1]):
        os.unlink(sys.argv[1])
    Server(sys.argv[1], Path(sys.argv[2])).serve_forever()
