"""Library of lifecycle: ports of the host, allocated by binding them.

A socket that is bound and listens is the reservation: the kernel refuses a second one, whoever
asks, and nothing has to be remembered or repaired. The container's shim gets the sockets and
holds them for the container's life; it also serves what reaches them past the firewall's DNAT,
which is IPv6. The table here only tells a port of another container from one of another program,
because Docker words the two differently.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from common.errors import EngineError, InternalError, InvalidArgument

LOCAL_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
ANY_V4, ANY_V6 = "0.0.0.0", "::"
PROTOCOLS = ("tcp", "udp", "sctp")
IPPROTO_SCTP = 132
BACKLOG = 4096
TEXTS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "cannot assign requested address",
    errno.EACCES: "permission denied",
    errno.EPROTONOSUPPORT: "protocol not supported",
    errno.EAFNOSUPPORT: "address family not supported by protocol",
}


@dataclass(frozen=True, slots=True)
class PortBinding:
    """One request: a container's port on a port of the host, or on one out of a range."""

    proto: str
    container_port: int
    host_ip: str = ""  # "": every address, of both families
    host_ports: tuple[int, int] | None = None  # first and last; None: any free one


@dataclass(frozen=True, slots=True)
class BoundPort:
    proto: str
    container_port: int
    host_ip: str
    host_port: int
    socket: socket.socket


class PortAllocated(InternalError):
    """No container can have this port now; the text is Docker's."""


def parse_container_port(text: str) -> tuple[int, str]:
    """``80/tcp`` or ``80``."""
    number, slash, proto = text.partition("/")
    proto = proto.lower() if slash else "tcp"
    if not re.fullmatch(r"[0-9]{1,5}", number) or not 0 < int(number) <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    if proto not in PROTOCOLS:
        raise InvalidArgument(f"invalid proto: {proto}")
    return int(number), proto


def parse_host_ports(text: str) -> tuple[int, int] | None:
    """``8080``, ``8000-8010``, or None for "" and 0: a free one."""
    if text in ("", "0"):
        return None
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if not match:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 < first <= last <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return first, last


def parse_binding(container_port: str, host_ip: str, host_port: str) -> PortBinding:
    number, proto = parse_container_port(container_port)
    if host_ip:
        try:
            host_ip = str(ip_address(host_ip.strip("[]")))
        except ValueError:
            raise InvalidArgument(f"invalid IP address in port binding: {host_ip!r}") from None
    return PortBinding(proto, number, host_ip, parse_host_ports(host_port))


class PortAllocator:
    def __init__(self, default_host_ip: str = ANY_V4) -> None:
        self._default_host_ip = default_host_ip
        self._held: dict[tuple[str, int], list[str]] = {}  # addresses that containers have
        self._ephemeral = 0  # where the next search for a free port begins

    def hold(self, proto: str, host_ip: str, host_port: int) -> None:
        """Remember a port that a container has already."""
        self._held.setdefault((proto, host_port), []).append(host_ip)

    def release(self, proto: str, host_ip: str, host_port: int) -> None:
        """The sockets are closed by their holder; this is for the error text only."""
        addresses = self._held.get((proto, host_port), [])
        if host_ip in addresses:
            addresses.remove(host_ip)
        if not addresses:
            self._held.pop((proto, host_port), None)

    def bind(
        self,
        bindings: Sequence[PortBinding],
        container_ip: str,
        *,
        default_host_ip: str = "",
        families: frozenset[int] = frozenset((4, 6)),
    ) -> list[BoundPort]:
        """All of ``bindings`` or none. Certain ports come first, so that no free choice takes one.

        Addresses that are not of ``families`` are left out. The sockets are the caller's, who
        passes them on and closes them.
        """
        order = sorted(range(len(bindings)), key=lambda at: _freedom(bindings[at]))
        found: dict[int, list[BoundPort]] = {}
        try:
            for at in order:
                addresses = [
                    address
                    for address in self._addresses(bindings[at], default_host_ip)
                    if (6 if ":" in address else 4) in families
                ]
                found[at] = (
                    self._bind_one(bindings[at], addresses, container_ip) if addresses else []
                )
        except EngineError:
            self.close(bound for group in found.values() for bound in group)
            raise
        return [bound for at in sorted(found) for bound in found[at]]

    def close(self, ports: Iterable[BoundPort]) -> None:
        """Give up ports whose sockets nobody else has got."""
        for bound in ports:
            bound.socket.close()
            self.release(bound.proto, bound.host_ip, bound.host_port)

    def _addresses(self, binding: PortBinding, default_host_ip: str) -> list[str]:
        host_ip = binding.host_ip or default_host_ip or self._default_host_ip
        if host_ip == ANY_V4 and not binding.host_ip and has_ipv6():
            return [ANY_V4, ANY_V6]
        return [host_ip]

    def _bind_one(
        self, binding: PortBinding, addresses: Sequence[str], container_ip: str
    ) -> list[BoundPort]:
        """The same port on each of ``addresses``."""
        taken: EngineError | None = None
        for port in self._candidates(binding):
            sockets: list[socket.socket] = []
            try:
                for address in addresses:
                    sockets.append(_listen(binding.proto, address, port))  # noqa: PERF401
            except OSError as error:
                for one in sockets:
                    one.close()
                address = addresses[len(sockets)]
                taken = self._refusal(error, binding, address, port, container_ip)
                if error.errno != errno.EADDRINUSE:
                    raise taken from error
                continue
            bound = [
                BoundPort(binding.proto, binding.container_port, address, port, one)
                for address, one in zip(addresses, sockets, strict=True)
            ]
            for one_bound in bound:
                self.hold(binding.proto, one_bound.host_ip, port)
            if binding.host_ports is None:
                self._ephemeral = port + 1
            return bound
        if taken is not None and _freedom(binding) == 0:
            raise taken
        raise PortAllocated("all ports are allocated")

    def _candidates(self, binding: PortBinding) -> Iterator[int]:
        if binding.host_ports is not None:
            yield from range(binding.host_ports[0], binding.host_ports[1] + 1)
            return
        first, last = (int(part) for part in LOCAL_PORT_RANGE.read_text().split())
        start = self._ephemeral if first <= self._ephemeral <= last else first
        yield from range(start, last + 1)
        yield from range(first, start)

    def _refusal(
        self, error: OSError, binding: PortBinding, address: str, port: int, container_ip: str
    ) -> EngineError:
        held = self._held.get((binding.proto, port), [])
        for other in held:
            if other == address or _is_any(other) or _is_any(address):
                shown = _bracket(other)
                return PortAllocated(f"Bind for {shown}:{port} failed: port is already allocated")
        number = error.errno or 0
        text = TEXTS.get(number, os.strerror(number).lower())
        return PortAllocated(
            f"failed to bind host port for {_bracket(address)}:{port}:{_bracket(container_ip)}:"
            f"{binding.container_port}/{binding.proto}: {text}"
        )


def has_ipv6() -> bool:
    """False with ipv6.disable=1: nothing can be bound then, and nobody can come that way."""
    return Path("/proc/net/if_inet6").exists()


def _freedom(binding: PortBinding) -> int:
    if binding.host_ports is None:
        return 65536
    return binding.host_ports[1] - binding.host_ports[0]


def _is_any(address: str) -> bool:
    return address in (ANY_V4, ANY_V6)


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _listen(proto: str, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if proto == "udp":
        one = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    else:
        number = IPPROTO_SCTP if proto == "sctp" else socket.IPPROTO_TCP
        one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, number)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if proto != "udp":
            # Past connections in TIME_WAIT are no reason to refuse; for UDP the option would let
            # two programs share the port.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if proto != "udp":
            one.listen(BACKLOG)
    except OSError:
        one.close()
        raise
    return one
