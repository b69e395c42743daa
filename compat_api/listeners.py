"""longshored: the sockets that clients connect to, as dockerd's --host names them.

``unix://path``, ``tcp://address:port``, and ``fd://`` for sockets that the init system has
opened. TCP without TLS gives the whole machine to whoever can connect, so there it takes an
explicit --tls=false on addresses that others reach, and browsers are kept out by origin.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import ipaddress
import logging
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from compat_api.app import App
from compat_api.connection import serve
from compat_api.daemon_config import DaemonConfig, TlsConfig
from compat_api.daemon_flags import ConfigError
from compat_api.origin import OriginCheck

log = logging.getLogger("longshored")

BACKLOG = 512
FIRST_INHERITED = 3  # sd_listen_fds(3)


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; ``path`` is that of a unix socket made here."""

    socket: socket.socket
    label: str
    path: Path | None = None
    tls: bool = False
    names: frozenset[str] = frozenset()  # host names that clients may address it by


def open_listeners(config: DaemonConfig) -> list[Listener]:
    listeners: list[Listener] = []
    with contextlib.ExitStack() as stack:
        for host in config.hosts:
            found = _open(host, config)
            for listener in found:
                stack.callback(listener.socket.close)
            listeners += found
        stack.pop_all()
    return listeners


def _open(host: str, config: DaemonConfig) -> list[Listener]:
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = ("unix", host) if host.startswith("/") else ("tcp", host)
    if scheme == "unix":
        return [open_unix(Path(rest or "/var/run/docker.sock"), config)]
    if scheme == "tcp":
        return [open_tcp(rest, config)]
    if scheme == "fd":
        return inherit(rest)
    raise ConfigError(f"invalid bind address ({host}): unknown scheme {scheme}")


def open_unix(path: Path, config: DaemonConfig) -> Listener:
    if not path.is_absolute():
        raise ConfigError(f"unix socket {path} must be an absolute path")
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    # From the first moment nobody but root may connect.
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't create unix socket {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    os.chown(path, 0, group_id(config))
    os.chmod(path, 0o660)
    listener.listen(BACKLOG)
    return Listener(listener, str(path), path)


def remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; one that is in use, and any other file, stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"can't create unix socket {path}: a file is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
    raise ConfigError(f"can't create unix socket {path}: another daemon listens on it")


def group_id(config: DaemonConfig) -> int:
    if config.group.isdecimal():
        return int(config.group)
    if not config.group:
        return 0
    try:
        return grp.getgrnam(config.group).gr_gid
    except KeyError:
        if config.group_given:
            raise ConfigError(f"group {config.group} not found") from None
        log.warning("could not change the socket's group to %s: not found", config.group)
        return 0


def open_tcp(rest: str, config: DaemonConfig) -> Listener:
    address, port = split_address(rest, 2376 if config.tls else 2375)
    if config.tls is None and not (config.allow_plain_tcp or is_loopback(address)):
        raise ConfigError(
            f"tcp://{address}:{port} without TLS would give this machine to whoever can connect: "
            "use --tlsverify, or --tls=false if that is meant"
        )
    try:
        family, _, _, _, target = socket.getaddrinfo(
            address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
    except OSError as error:
        raise ConfigError(f"can't listen on tcp://{rest}: {error.strerror}") from None
    listener.listen(BACKLOG)
    if config.tls is None:
        log.warning("the API is served on tcp://%s:%d without authentication", address, port)
    host = f"[{address}]" if ":" in address else address
    return Listener(
        listener,
        f"{host}:{listener.getsockname()[1]}",
        tls=config.tls is not None,
        names=frozenset((address.lower(), socket.gethostname().lower())) - {""},
    )


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """``host:port``, ``[v6]:port``, ``host`` or ``:port``; without a host it is loopback."""
    text = text.rstrip("/")
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        address, _, port = text.partition(":")
    if port and not port.isdecimal():
        raise ConfigError(f"invalid bind address (tcp://{text}): invalid port")
    return address or "127.0.0.1", int(port or default_port)


def is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def inherit(rest: str) -> list[Listener]:
    """Sockets of systemd's socket activation; all of them, or the one with the given number."""
    count = int(os.environ.get("LISTEN_FDS") or 0)
    if os.environ.get("LISTEN_PID") not in (None, str(os.getpid())):
        count = 0
    descriptors = list(range(FIRST_INHERITED, FIRST_INHERITED + count))
    if rest not in ("", "*"):
        descriptors = [number for number in descriptors if str(number) == rest]
    if not descriptors:
        raise ConfigError("no sockets found via socket activation: start the daemon by it")
    found = []
    for number in descriptors:
        os.set_inheritable(number, False)
        listener = socket.socket(fileno=number)
        label = listener.getsockname()
        found.append(
            Listener(listener, label if isinstance(label, str) else f"{label[0]}:{label[1]}")
        )
    return found


async def serve_all(
    app: App, listeners: list[Listener], tls: TlsConfig | None
) -> list[asyncio.Server]:
    """Accept connections; each listener has a server of its own kind."""
    loop = asyncio.get_running_loop()
    context = tls_context(tls) if tls is not None else None
    servers = []
    for listener in listeners:
        plain_tcp = listener.socket.family != socket.AF_UNIX and not listener.tls
        check = OriginCheck(listener.names) if plain_tcp else None
        protocol_factory = serve(app.handler(check))
        if listener.socket.family == socket.AF_UNIX:
            server = await loop.create_unix_server(
                protocol_factory, sock=listener.socket, backlog=BACKLOG
            )
        else:
            server = await loop.create_server(
                protocol_factory,
                sock=listener.socket,
                backlog=BACKLOG,
                ssl=context if listener.tls else None,
            )
        servers.append(server)
        log.info("API listen on %s", listener.label)
    return servers


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.verify:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"could not load TLS files {tls.certificate}, {tls.key}, {tls.ca}: {error}"
        ) from None
    return context
