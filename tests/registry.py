"""Test support: a real registry (Debian's docker-registry) on a free port of the loopback."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from tests import polling
from tests.archives import image_config, tool

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Registry:
    """``auth`` and ``tls`` are sections of its configuration file; tls is of ``http``."""

    def __init__(
        self,
        directory: Path,
        *,
        auth: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.directory = directory
        self._auth, self._tls = auth, tls
        self.port = free_port()
        self.host, self.address = host, f"{host}:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._log = directory / "registry.log"

    def start(self) -> None:
        http_section: dict[str, Any] = {"addr": self.address}
        if self._tls:
            http_section["tls"] = dict(self._tls)
        root = str(self.directory / "data")
        sections: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": root}, "delete": {"enabled": True}},
            "http": http_section,
        }
        if self._auth:
            sections["auth"] = dict(self._auth)
        config = self.directory / "config.yml"
        config.write_text(json.dumps(sections))  # JSON is YAML
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [tool("docker-registry", "usr/bin/docker-registry"), "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        polling.until(self._responds, "docker-registry to answer")

    def _responds(self) -> bool:
        connection = self._connect()
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()

    def downloads(self, name: str) -> Counter[str]:
        """How often each blob of a repository was fetched, by the registry's access log."""
        path = re.escape(f"/v2/{name.partition(':')[0]}/blobs/")
        lines = re.findall(rf'"GET {path}(\S+) HTTP/[\d.]+" 20', self._log.read_text())
        return Counter(lines)

    def put(self, name: str, layers: Sequence[bytes], compressed: Sequence[bytes]) -> str:
        """An image straight into the registry, past any engine; its reference."""
        blobs = [self.put_blob(name, blob) for blob in compressed]
        return self._put_image(name, image_config(layers, {}), blobs)

    def put_file(self, name: str, layer: Path) -> str:
        """An image of one plain layer that is too large for memory."""
        with layer.open("rb") as file:
            diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            file.seek(0)
            size = layer.stat().st_size
            self._put_blob(name, diff_id, file, size)
        config = json.loads(image_config([], {}))
        config["rootfs"]["diff_ids"] = [diff_id]
        blob = {"mediaType": LAYER, "digest": diff_id, "size": size}
        return self._put_image(name, json.dumps(config).encode(), [blob])

    def put_blob(self, name: str, blob: bytes, media_type: str = LAYER_GZIP) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        self._put_blob(name, digest, io.BytesIO(blob), len(blob))
        return {"mediaType": media_type, "digest": digest, "size": len(blob)}

    def put_manifest(self, name: str, manifest: bytes, media_type: str) -> dict[str, Any]:
        """Under the name's tag, or only by digest where it has none."""
        repository, _, tag = name.partition(":")
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        headers = {"Content-Type": media_type}
        self._call("PUT", f"/v2/{repository}/manifests/{tag or digest}", manifest, headers)
        return {"mediaType": media_type, "digest": digest, "size": len(manifest)}

    def _put_image(self, name: str, config: bytes, layers: Sequence[dict[str, Any]]) -> str:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put_blob(name, config, CONFIG_TYPE),
            "layers": layers,
        }
        self.put_manifest(name, json.dumps(manifest).encode(), MANIFEST)
        return f"{self.address}/{name}"

    def _put_blob(self, name: str, digest: str, data: IO[bytes], size: int) -> None:
        repository = name.partition(":")[0]
        location = self._call("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        separator = "&" if "?" in location else "?"
        target = location[location.index("/v2/") :] + f"{separator}digest={quote(digest)}"
        self._call("PUT", target, data, {"Content-Length": str(size)})

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=120)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if "clientcas" in self._tls:
            context.load_cert_chain(self.directory / "client.cert", self.directory / "client.key")
        return http.client.HTTPSConnection(self.host, self.port, timeout=120, context=context)

    def _call(
        self,
        method: str,
        target: str,
        body: IO[bytes] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        connection = self._connect()
        try:
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, f"{method} {target}: {answer.status} {text!r}"
            return answer
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
