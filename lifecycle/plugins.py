"""Library of lifecycle: finding plugins of Docker's protocol v1, and calling them.

A plugin is a process of somebody else's that serves HTTP. It is found by a socket or a file with
its name in fixed directories, which are looked at anew each time, and is asked once what it
implements. https://docs.docker.com/engine/extend/plugin_api/ is the protocol.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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
# A plugin that is being restarted refuses connections for a moment. Docker's client tries again
# after 1, 2, 4 and 8 seconds, and then gives up.
CONNECT_SECONDS = 15.0
CONNECT_STEP = 0.1

Json = dict[str, Any]


class OtherPlugin(NotFound):
    """It is there, and for something else."""


class PluginAway(InternalError):
    """Nobody listens there: the plugin has not heard of the call."""


class PluginRefused(InternalError):
    """The plugin's own no: nothing was done."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; 404: it does not know the method


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
    # What else it said of itself when it was first asked, by method.
    capabilities: dict[str, Json] = field(default_factory=dict)

    def answers_as(self, other: Plugin) -> bool:
        return (self.address, self.implements) == (other.address, other.implements)

    async def call(
        self, method: str, body: Json | None = None, *, patience: float = CONNECT_SECONDS
    ) -> Json:
        """One request; raises InternalError with the plugin's own words.

        ``patience`` is for a plugin that does not listen now. An InternalError that is neither of
        the classes above means that nobody knows whether the plugin did it.
        """
        return await _in_thread(lambda: self._call(method, body, patience))

    def _call(self, method: str, body: Json | None, patience: float) -> Json:
        sent = orjson.dumps(body) if body is not None else b""
        status, answer = self._post(method, sent, patience)
        try:
            parsed = orjson.loads(answer) if answer.strip() else {}
        except orjson.JSONDecodeError:
            parsed = {"Err": answer.decode(errors="replace").strip()}
        if not isinstance(parsed, dict):
            raise InternalError(f"{method}: the plugin {self.name} answered {answer[:100]!r}")
        refusal = parsed.get("Err") or parsed.get("Error")  # an IPAM plugin says the latter
        if status != 200:
            raise PluginRefused(f"{method}: {refusal or f'status {status}'}", status)
        if refusal:
            raise PluginRefused(str(refusal))
        return parsed

    def _post(self, method: str, body: bytes, patience: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + patience
        while True:
            connection = self._connection()
            try:
                connection.connect()
            except OSError as error:
                connection.close()
                if time.monotonic() >= deadline:
                    raise PluginAway(self._unreachable(method, error)) from error
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

    def _unreachable(self, method: str, error: OSError) -> str:
        """In the words of Docker's client."""
        url = urllib.parse.urlsplit(self.address.url)
        where = f"unix {url.path}" if url.scheme == "unix" else f"tcp {url.netloc}"
        reason = (error.strerror or str(error)).lower()
        return f'Post "http://plugin.moby.localhost/{method}": dial {where}: connect: {reason}'

    def _connection(self) -> http.client.HTTPConnection:
        url = urllib.parse.urlsplit(self.address.url)
        if url.scheme == "unix":
            return UnixConnection(url.path, CALL_SECONDS)
        if self.address.tls is not None or url.scheme == "https":
            context = _context(self.address.tls or {})
            return http.client.HTTPSConnection(url.netloc, timeout=CALL_SECONDS, context=context)
        return http.client.HTTPConnection(url.netloc, timeout=CALL_SECONDS)


async def _in_thread(work: Callable[[], Json]) -> Json:
    """A thread for each call: those of the loop's own pool are few, and others need them.

    A plugin that hangs keeps neither them nor, being a daemon's, the end of the process.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Json] = loop.create_future()

    def deliver(result: Json | None, error: Exception | None) -> None:
        if future.done():
            return  # the caller was cancelled
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or {})

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=run, name="plugin-call", daemon=True).start()
    return await future


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

    async def get(self, name: str, interface: str, *, patience: float = CONNECT_SECONDS) -> Plugin:
        """The plugin of that name; NotFound if there is none, or it is for something else."""
        address = self._find(name)
        if address is None:
            self._active.pop(name, None)
            raise NotFound(f'plugin "{name}" not found')
        plugin = self._active.get(name)
        # Another program may have taken its place since, so a no is asked for anew.
        if plugin is None or plugin.address != address or interface not in plugin.implements:
            known, plugin = plugin, Plugin(name, address)
            answer = await plugin.call("Plugin.Activate", patience=patience)
            plugin.implements = frozenset(map(str, answer.get("Implements") or ()))
            if known is not None and known.answers_as(plugin):
                plugin = known
            self._active[name] = plugin
        if interface not in plugin.implements:
            raise OtherPlugin(f'plugin "{name}" does not implement "{interface}"')
        return plugin

    async def all(self, interface: str) -> list[Plugin]:
        """Every plugin that implements ``interface`` and answers."""
        found = []
        for name in sorted(set(self._names())):
            try:
                found.append(await self.get(name, interface, patience=0))
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
