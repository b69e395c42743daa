"""Library of lifecycle: finding plugins of Docker's protocol v1, and calling them.

A plugin is a process of somebody else's that serves HTTP. It is found by a socket or a file with
its name in fixed directories, which are looked at anew each time, and is asked once what it
implements. https://docs.docker.com/engine/extend/plugin_api/ is the protocol.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from common.errors import EngineError, InternalError, NotFound

if TYPE_CHECKING:
    import ssl

SOCKETS = Path("/run/docker/plugins")
SPECIFICATIONS = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))

MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
CALL_SECONDS = 120.0
# A plugin that is being restarted refuses connections for a moment.
CONNECT_SECONDS = 10.0
CONNECT_STEP = 0.1

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a plugin listens, and the files with which to trust it over TLS."""

    url: str
    tls: Mapping[str, Any] | None = None


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(slots=True)
class Plugin:
    name: str
    address: Address
    implements: frozenset[str] = field(default_factory=frozenset)

    async def call(self, method: str, body: Json | None = None) -> Json:
        """One request; raises InternalError with the plugin's own words."""
        return await asyncio.to_thread(self._call, method, body)

    def _call(self, method: str, body: Json | None) -> Json:
        status, answer = self._post(method, orjson.dumps(body) if body is not None else b"")
        try:
            parsed = orjson.loads(answer) if answer.strip() else {}
        except orjson.JSONDecodeError:
            parsed = {"Err": answer.decode(errors="replace").strip()}
        if not isinstance(parsed, dict):
            raise InternalError(f"{method}: the plugin {self.name} answered {answer[:100]!r}")
        if status != 200:
            raise InternalError(f"{method}: {parsed.get('Err') or f'status {status}'}")
        if parsed.get("Err"):
            raise InternalError(str(parsed["Err"]))
        return parsed

    def _post(self, method: str, body: bytes) -> tuple[int, bytes]:
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            connection = self._connection()
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise InternalError(
                        f"{method}: cannot connect to the plugin {self.name}: {error}"
                    ) from error
                time.sleep(CONNECT_STEP)
                continue
            try:
                headers = {"Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
                connection.request("POST", f"/{method}", body, headers)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                raise InternalError(f"{method}: the plugin {self.name}: {error!r}") from error
            finally:
                connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        url = urllib.parse.urlsplit(self.address.url)
        if url.scheme == "unix":
            return UnixConnection(url.path, CALL_SECONDS)
        if self.address.tls is not None or url.scheme == "https":
            context = _context(self.address.tls or {})
            return http.client.HTTPSConnection(url.netloc, timeout=CALL_SECONDS, context=context)
        return http.client.HTTPConnection(url.netloc, timeout=CALL_SECONDS)


def _context(files: Mapping[str, Any]) -> ssl.SSLContext:
    import ssl  # only here: it is large, see lifecycle/__main__.py

    context = ssl.create_default_context(cafile=files.get("CAFile") or None)
    if files.get("InsecureSkipVerify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.get("CertFile"):
        context.load_cert_chain(files["CertFile"], files.get("KeyFile") or None)
    return context


class Plugins:
    """The plugins of this machine; one object for the engine."""

    def __init__(
        self, sockets: Path = SOCKETS, specifications: tuple[Path, ...] = SPECIFICATIONS
    ) -> None:
        self._sockets = sockets
        self._specifications = specifications
        self._active: dict[str, Plugin] = {}

    async def get(self, name: str, interface: str) -> Plugin:
        """The plugin of that name; NotFound if there is none, or it is for something else."""
        address = self._find(name)
        if address is None:
            self._active.pop(name, None)
            raise NotFound(f'plugin "{name}" not found')
        plugin = self._active.get(name)
        # Another program may have taken its place since, so a no is asked for anew.
        if plugin is None or plugin.address != address or interface not in plugin.implements:
            plugin = Plugin(name, address)
            answer = await plugin.call("Plugin.Activate")
            plugin.implements = frozenset(map(str, answer.get("Implements") or ()))
            self._active[name] = plugin
        if interface not in plugin.implements:
            raise NotFound(f'plugin "{name}" does not implement "{interface}"')
        return plugin

    async def all(self, interface: str) -> list[Plugin]:
        """Every plugin that implements ``interface`` and answers."""
        found = []
        for name in sorted(set(self._names())):
            try:
                found.append(await self.get(name, interface))
            except EngineError:
                continue
        return found

    def active(self, interface: str) -> list[str]:
        """Those that were asked for, and answered, so far."""
        return sorted(
            plugin.name for plugin in self._active.values() if interface in plugin.implements
        )

    def _find(self, name: str) -> Address | None:
        # A name comes from a client, and must not lead anywhere else.
        if not name.isprintable() or not name or "/" in name or name.startswith("."):
            return None
        for path in (self._sockets / f"{name}.sock", self._sockets / name / f"{name}.sock"):
            if path.is_socket():
                return Address(f"unix://{path}")
        for directory in self._specifications:
            for parent in (directory, directory / name):
                found = _read(parent / name)
                if found is not None:
                    return found
        return None

    def _names(self) -> Iterator[str]:
        for directory, endings in (
            (self._sockets, (".sock",)),
            *((directory, (".spec", ".json")) for directory in self._specifications),
        ):
            for path in _listing(directory):
                if path.suffix in endings:
                    yield path.stem
                elif any((path / f"{path.name}{ending}").exists() for ending in endings):
                    yield path.name


def _listing(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(base: Path) -> Address | None:
    """The address in ``<base>.spec`` (a URL) or ``<base>.json``."""
    try:
        return Address(base.with_name(f"{base.name}.spec").read_text().strip())
    except OSError:
        pass
    path = base.with_name(f"{base.name}.json")
    try:
        content = orjson.loads(path.read_bytes())
        tls = content.get("TLSConfig")
        return Address(content["Addr"], tls if isinstance(tls, dict) else None)
    except OSError:
        return None
    except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
        raise InternalError(f"{path} does not describe a plugin: {error!r}") from error
