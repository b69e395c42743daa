"""Library: published ports for connections that the firewall's DNAT does not see.

Runs in the shim's loop, in the host's network namespace. The bound sockets keep the ports taken
for the container's life; connections from the host itself to a loopback address, or from a
container to its own host's address, arrive at them and are relayed to the container. Each
direction has one buffer: a side is read only when what was read before has been written, so that
slow peers slow each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from shim.loop import Loop, Timer

BUFFER_SIZE = 64 * 1024
MAX_CONNECTIONS = 512
MAX_UDP_PEERS = 256
UDP_IDLE_SECONDS = 90.0
_DATAGRAM = 65535


@dataclass(frozen=True, slots=True)
class PublishedPort:
    proto: str
    container_ip: str
    container_port: int


class Held:
    """A bound socket, and where what it gets is to go."""

    def __init__(self, sock: socket.socket, target: tuple[str, int]) -> None:
        self.socket = sock
        self.family = sock.family
        self.target = target


class PortProxy:
    """Owns the bound sockets and all relayed connections."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held: list[Held] = []
        self._relays: set[Relay] = set()
        self._forwarders: list[DatagramForwarder] = []

    def add(self, fd: int, port: PublishedPort) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        held = Held(sock, (port.container_ip, port.container_port))
        self._held.append(held)
        if port.proto == "tcp":
            self._loop.add(fd, select.EPOLLIN, lambda _events: self._accept(held))
        elif port.proto == "udp":
            self._forwarders.append(DatagramForwarder(self._loop, held))

    def retarget(self, addresses: Sequence[str]) -> None:
        """All ports lead to these addresses of the container from now on; none: they are freed.

        Connections that exist stay with the address that they have, and end with it.
        """
        if not addresses:
            self.close()
        for held in self._held:
            same = [one for one in addresses if (":" in one) == (held.family == socket.AF_INET6)]
            held.target = ((same or addresses)[0], held.target[1])

    def close(self) -> None:
        for relay in list(self._relays):
            relay.close()
        for forwarder in self._forwarders:
            forwarder.close()
        for held in self._held:
            self._loop.remove(held.socket.fileno())
            held.socket.close()
        self._forwarders.clear()
        self._held.clear()

    def _accept(self, held: Held) -> None:
        try:
            client, _ = held.socket.accept()
        except OSError:
            return
        if len(self._relays) >= MAX_CONNECTIONS:
            client.close()
            return
        server = socket.socket(_family(held.target[0]), socket.SOCK_STREAM)
        for sock in (client, server):
            sock.setblocking(False)
        failure = server.connect_ex(held.target)
        if failure not in (0, errno.EINPROGRESS):
            client.close()
            server.close()
            return
        self._relays.add(Relay(self._loop, client, server, self._relays))


class Relay:
    """One connection: two sockets and what is on its way between them."""

    def __init__(
        self, loop: Loop, client: socket.socket, server: socket.socket, registry: set[Relay]
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._connecting = True
        request, answer = Direction(client, server), Direction(server, client)
        self._directions = (request, answer)
        self._interest = {client: 0, server: 0}
        self._update_interest()

    def close(self) -> None:
        if self not in self._registry:
            return
        self._registry.discard(self)
        for sock in self._interest:
            self._loop.remove(sock.fileno())
            sock.close()

    def _on_event(self, _events: int) -> None:
        # Until the server's socket is connected it is the only one with events.
        self._connecting = False
        try:
            for direction in self._directions:
                direction.move()
        except OSError:
            self.close()
            return
        if all(direction.done for direction in self._directions):
            self.close()
        else:
            self._update_interest()

    def _update_interest(self) -> None:
        request, answer = self._directions
        for incoming, outgoing in ((request, answer), (answer, request)):
            events = 0
            if self._connecting:
                events = select.EPOLLOUT if incoming is answer else 0
            else:
                if incoming.wants_read:
                    events |= select.EPOLLIN
                if outgoing.pending is not None:
                    events |= select.EPOLLOUT
            self._set_events(incoming.source, events)

    def _set_events(self, sock: socket.socket, events: int) -> None:
        before, self._interest[sock] = self._interest[sock], events
        if events == before:
            return
        # A hang-up is reported even for no events, and would be again and again.
        if events == 0:
            self._loop.remove(sock.fileno())
        elif before == 0:
            self._loop.add(sock.fileno(), events, self._on_event)
        else:
            self._loop.modify(sock.fileno(), events)


class Direction:
    """Bytes from ``source`` to ``target``, with the half-close passed on."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.pending: memoryview | None = None
        self.done = False

    @property
    def wants_read(self) -> bool:
        return not self.done and self.pending is None

    def move(self) -> None:
        if self.wants_read:
            try:
                data = self.source.recv(BUFFER_SIZE)
            except BlockingIOError:
                return
            if not data:
                self.done = True
                with contextlib.suppress(OSError):
                    self.target.shutdown(socket.SHUT_WR)
                return
            self.pending = memoryview(data)
        if self.pending is not None:
            self._write(self.pending)

    def _write(self, pending: memoryview) -> None:
        try:
            rest = pending[self.target.send(pending) :]
        except BlockingIOError:
            return
        self.pending = rest if len(rest) else None


class DatagramForwarder:
    """UDP: a socket of its own for each peer, so that the answers find their way back."""

    def __init__(self, loop: Loop, held: Held) -> None:
        self._loop = loop
        self._held = held
        self._socket = held.socket
        self._peers: dict[object, socket.socket] = {}
        self._active: set[object] = set()
        self._timer: Timer | None = None
        loop.add(self._socket.fileno(), select.EPOLLIN, self._on_request)

    def close(self) -> None:
        self._loop.cancel(self._timer)
        for address in list(self._peers):
            self._forget(address)

    def _on_request(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            data, address = self._socket.recvfrom(_DATAGRAM)
            peer = self._peers.get(address) or self._open(address)
            self._active.add(address)
            peer.send(data)

    def _open(self, address: object) -> socket.socket:
        if len(self._peers) >= MAX_UDP_PEERS:
            self._forget(next(iter(self._peers)))
        target = self._held.target
        peer = socket.socket(_family(target[0]), socket.SOCK_DGRAM)
        try:
            peer.setblocking(False)
            peer.connect(target)
        except OSError:
            peer.close()
            raise
        self._peers[address] = peer
        self._loop.add(peer.fileno(), select.EPOLLIN, lambda _events: self._on_answer(address))
        if self._timer is None:
            self._timer = self._loop.call_later(UDP_IDLE_SECONDS, self._expire)
        return peer

    def _on_answer(self, address: object) -> None:
        with contextlib.suppress(OSError):
            data = self._peers[address].recv(_DATAGRAM)
            self._active.add(address)
            self._socket.sendto(data, address)  # type: ignore[call-overload]

    def _expire(self) -> None:
        for address in [each for each in self._peers if each not in self._active]:
            self._forget(address)
        self._active.clear()
        again = bool(self._peers)
        self._timer = self._loop.call_later(UDP_IDLE_SECONDS, self._expire) if again else None

    def _forget(self, address: object) -> None:
        peer = self._peers.pop(address)
        self._loop.remove(peer.fileno())
        peer.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def hold_all(proxy: PortProxy, ports: list[PublishedPort], fds: list[int]) -> None:
    """Take over one descriptor for each port; the ones that are left on a failure are closed."""
    remaining = list(fds)
    try:
        for port in ports:
            proxy.add(remaining.pop(0), port)
    finally:
        for fd in remaining:
            os.close(fd)
