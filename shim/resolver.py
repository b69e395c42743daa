"""Library: the DNS server at 127.0.0.11 inside a container, in the shim's loop.

It answers for the containers on the container's own networks from the files of common/namefiles.py,
and passes other questions on (upstream.py). It listens on a port of its choice, to which dnsnat.py
leads port 53. Nobody but the shim is needed for an answer: not the API, not lifecycle.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

from common import namefiles, netns, resolvconf
from common.resolverconfig import ADDRESS, ResolverConfig
from shim import dnsmessage, dnsnat
from shim.dnsmessage import MalformedMessage, Query
from shim.loop import Loop, Timer
from shim.upstream import Attempt, DatagramAttempt, Exchange, StreamAttempt

PORT_ATTEMPTS = 20
BURST = 16  # datagrams
MAX_EXCHANGES = 1000
MAX_CONNECTIONS = 64
REMEMBERED = 256  # messages
LONGEST_REMEMBERED = 512
MAX_PENDING = 256 * 1024
IDLE_SECONDS = 10.0  # of a TCP connection
SILENT_SECONDS = 30.0  # how long a server that did not answer is asked with less patience

Reply = Callable[[bytes], None]
Versions = list[int]  # of the names on each of the container's networks, see namefiles.py


class Resolver:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._config = ResolverConfig(())
        self._namespace = -1
        self._datagrams: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._connections: set[ClientConnection] = set()
        self._exchanges: set[Exchange] = set()
        self._silent: dict[str, float] = {}  # servers, and until when
        # Clients ask the same again and again.
        self._queries: dict[bytes, Query] = {}
        self._answers: dict[tuple[object, ...], bytes] = {}
        # By datagram: the answer, and the versions of the networks' names that it follows from.
        self._ready: dict[bytes, tuple[Versions, bytes]] = {}
        self._host_servers: tuple[int, resolvconf.ResolvConf] = (0, resolvconf.ResolvConf())

    def open(self, pid: int, config: ResolverConfig | None) -> None:
        """Answer inside the network namespace of ``pid`` from now on, or as ``config`` says now."""
        self._config = config or ResolverConfig(())
        self._ready.clear()
        if config is None or self._datagrams is not None:
            return
        self._namespace = netns.open_of(pid)
        with netns.entered(self._namespace):
            self._datagrams, self._listener = _bind()
        self._loop.add(self._datagrams.fileno(), select.EPOLLIN, self._on_datagram)
        self._loop.add(self._listener.fileno(), select.EPOLLIN, self._on_connection)

    def close(self) -> None:
        for exchange in list(self._exchanges):
            exchange.close()
        self._exchanges.clear()
        for connection in list(self._connections):
            connection.close()
        for sock in (self._datagrams, self._listener):
            if sock is not None:
                self._loop.remove(sock.fileno())
                sock.close()
        self._datagrams = self._listener = None
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    def _on_datagram(self, _events: int) -> None:
        """Several in a row, but not without end: the container's output waits meanwhile."""
        sock = self._datagrams
        for _ in range(BURST):
            if sock is None or sock is not self._datagrams:
                return
            try:
                data, client = sock.recvfrom(dnsmessage.OUR_LIMIT)
            except OSError:
                return
            response = self._ready_answer(data)
            if response is None:
                self.handle(data, partial(self._reply, client), stream=False)
            else:
                self._reply(client, response)

    def _reply(self, client: object, response: bytes) -> None:
        if self._datagrams is not None:
            try:
                self._datagrams.sendto(response, client)  # type: ignore[call-overload]
            except OSError:
                return  # the client has gone

    def _ready_answer(self, data: bytes) -> bytes | None:
        found = self._ready.get(data[2:])
        if found is None:
            return None
        if found[0] != self._versions():
            del self._ready[data[2:]]
            return None
        return data[:2] + found[1]

    def _remember(self, data: bytes, versions: Versions, response: bytes) -> None:
        if len(data) <= LONGEST_REMEMBERED and namefiles.are_settled(versions):
            if len(self._ready) >= REMEMBERED:
                self._ready.clear()
            self._ready[data[2:]] = (versions, response[2:])

    def _versions(self) -> Versions:
        return [namefiles.version(network.directory) for network in self._config.networks]

    def _on_connection(self, _events: int) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            client.close()
            return
        self._connections.add(ClientConnection(self._loop, client, self, self._connections))

    def handle(self, data: bytes, reply: Reply, *, stream: bool) -> None:
        try:
            self._handle(data, reply, stream=stream)
        except MalformedMessage:
            refusal = dnsmessage.refusal(data, dnsmessage.FORMERR)
            if refusal is not None:
                reply(refusal)
        except Exception:
            # One query must not end the shim, and with it the container's log and streams.
            traceback.print_exc()
            refusal = dnsmessage.refusal(data, dnsmessage.SERVFAIL)
            if refusal is not None:
                reply(refusal)

    def _handle(self, data: bytes, reply: Reply, *, stream: bool) -> None:
        query = self._queries.get(data[2:])
        if query is None:
            query = dnsmessage.parse_query(data)
            if len(self._queries) >= REMEMBERED:
                self._queries.clear()
            if len(data) <= LONGEST_REMEMBERED:
                self._queries[data[2:]] = query
        limit = dnsmessage.LARGEST if stream else query.limit
        versions = self._versions()
        records = self._own_records(query)
        if records is not None:
            response = self._answer(data, query, records, limit)
            if not stream and len(records) < 2:
                self._remember(data, versions, response)
            reply(response)
        elif (
            self._config.keeps_plain_names
            and query.kind in (dnsmessage.A, dnsmessage.AAAA)
            and b"." not in query.name
        ):
            reply(dnsmessage.answer(data, query, (), limit=limit))
        else:
            self._forward(data, query, reply, stream=stream)

    def _answer(self, data: bytes, query: Query, records: list[bytes], limit: int) -> bytes:
        key = (data[2:], limit, *records)
        found = self._answers.get(key)
        if found is None:
            found = dnsmessage.answer(data, query, records, limit=limit)[2:]
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            self._answers[key] = found
        return data[:2] + found

    # Containers' names.

    def _own_records(self, query: Query) -> list[bytes] | None:
        """None: not a name of ours. An empty list: it is, but has nothing of this type."""
        if query.kind in (dnsmessage.A, dnsmessage.AAAA, dnsmessage.MX):
            addresses = self._addresses(query.name)
            if not addresses or query.kind == dnsmessage.MX:
                return [] if addresses else None
            is_ipv6 = query.kind == dnsmessage.AAAA
            family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
            wanted = [one for one in addresses if (":" in one) == is_ipv6]
            if len(wanted) > 1:
                wanted.sort(key=lambda _: os.urandom(4))
            return [socket.inet_pton(family, one) for one in wanted]
        if query.kind == dnsmessage.PTR:
            name = self._name_of(query.name)
            return None if name is None else [dnsmessage.encode_name(name)]
        return None

    def _addresses(self, name: bytes) -> list[str]:
        name = name.lower()
        plain, _, suffix = name.rpartition(b".")
        found: list[str] = []
        for network in self._config.networks:
            found = self._on_network(network.directory, network.links, name)
            if not found and plain and suffix == network.name.lower().encode():
                found = self._on_network(network.directory, network.links, plain)
            if found:
                break
        return found

    def _on_network(self, directory: str, links: object, name: bytes) -> list[str]:
        if links:
            assert isinstance(links, dict)
            name = str(links.get(name.decode(errors="replace"), "")).encode() or name
        file = namefiles.encode(name)
        return namefiles.read(f"{directory}/{file}") if file else []

    def _name_of(self, pointer: bytes) -> str | None:
        digits = dnsmessage.address_of_pointer(pointer)
        if digits is None:
            return None
        address = ip_address(bytes.fromhex(digits)) if "." not in digits else ip_address(digits)
        for network in self._config.networks:
            lines = namefiles.read(f"{network.directory}/ptr:{address}")
            if lines:
                return f"{lines[0]}.{network.name}"
        return None

    # Everybody else's.

    def _forward(self, data: bytes, query: Query, reply: Reply, *, stream: bool) -> None:
        if len(self._exchanges) >= MAX_EXCHANGES:
            reply(dnsmessage.answer(data, query, (), rcode=dnsmessage.REFUSED, limit=512))
            return
        exchange: Exchange
        attempts: list[Attempt] = []
        kind = StreamAttempt if stream else DatagramAttempt
        flavour = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        for server, from_host in self._upstreams():
            try:
                sock = self._socket(server, flavour, from_host=from_host)
            except OSError:
                continue
            attempts.append(
                kind(self._loop, sock, server, lambda one, result: exchange.on_result(one, result))
            )

        def done(response: bytes | None, silent: list[str]) -> None:
            self._exchanges.discard(exchange)
            until = time.monotonic() + SILENT_SECONDS
            if response is not None:
                self._silent.update(dict.fromkeys(silent, until))
                reply(data[:2] + response[2:])
            else:
                reply(dnsmessage.answer(data, query, (), rcode=dnsmessage.SERVFAIL, limit=512))

        exchange = Exchange(self._loop, attempts, done)
        self._exchanges.add(exchange)
        exchange.send(os.urandom(2) + data[2:], query.end)

    def _upstreams(self) -> list[tuple[str, bool]]:
        """Servers that were silent come last."""
        found = [
            (server, from_host and not (":" in server and self._reaches(server)))
            for server, from_host in resolvconf.upstream_servers(
                self._host_file(), self._config.servers
            )
            if server != ADDRESS or from_host
        ]
        found = [one for one in found if self._config.forwards or not one[1]]
        now = time.monotonic()
        return sorted(found, key=lambda one: self._silent.get(one[0], 0.0) > now)

    def _reaches(self, server: str) -> bool:
        return self._config.has_ipv6 and not ip_address(server).is_loopback

    def _host_file(self) -> resolvconf.ResolvConf:
        """The host's resolv.conf, read again when it has changed."""
        if self._config.servers:
            return resolvconf.ResolvConf()
        try:
            changed = os.stat(resolvconf.HOST_RESOLV_CONF).st_mtime_ns
        except OSError:
            changed = 0
        if changed != self._host_servers[0]:
            self._host_servers = (changed, resolvconf.read_host())
        return self._host_servers[1]

    def _socket(self, server: str, kind: socket.SocketKind, *, from_host: bool) -> socket.socket:
        """In the container's namespace, so that its routes and its firewall apply."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        if from_host:
            return socket.socket(family, kind)
        with netns.entered(self._namespace):
            return socket.socket(family, kind)


class ClientConnection:
    """A client by TCP: messages with their length before them, answered as they are done."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        resolver: Resolver,
        registry: set[ClientConnection],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._resolver = resolver
        self._registry = registry
        self._received = bytearray()
        self._pending = bytearray()
        self._open = True
        sock.setblocking(False)
        loop.add(sock.fileno(), select.EPOLLIN, self._on_event)
        self._timer: Timer | None = loop.call_later(IDLE_SECONDS, self.close)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.cancel(self._timer)
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._registry.discard(self)

    def _on_event(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not self._open or not events & ~select.EPOLLOUT:
            return
        try:
            data = self._socket.recv(dnsmessage.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._loop.cancel(self._timer)
        self._timer = self._loop.call_later(IDLE_SECONDS, self.close)
        self._received += data
        while self._open and len(self._received) >= 2:
            size = 2 + int.from_bytes(self._received[:2])
            if len(self._received) < size:
                break
            message = bytes(self._received[2:size])
            del self._received[:size]
            self._resolver.handle(message, self._reply, stream=True)

    def _reply(self, response: bytes) -> None:
        if self._open:
            self._pending += len(response).to_bytes(2) + response
            self._flush()
        if len(self._pending) > MAX_PENDING:
            self.close()  # it asks and does not listen

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._pending) if self._pending else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._pending[:sent]
        events = select.EPOLLIN | (select.EPOLLOUT if self._pending else 0)
        self._loop.modify(self._socket.fileno(), events)


def _bind() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port of the caller's namespace, which port 53 leads to."""
    for _ in range(PORT_ATTEMPTS):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            datagrams.bind((ADDRESS, 0))
            listener.bind(datagrams.getsockname())
            listener.listen(128)
            dnsnat.redirect(*datagrams.getsockname())
        except OSError as error:
            datagrams.close()
            listener.close()
            failure = error
            if error.errno == errno.EADDRINUSE:
                continue
            break
        return datagrams, listener
    raise failure
