"""Network namespaces that stand for machines: the host under test, containers, a neighbour.

The test's own thread moves into a namespace of its own, so that what the code under test does to
"the host" (bridges, nftables, sysctls) happens there and is gone afterwards.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common import netlink, netns
from common.netlink import Netlink
from tests.polling import PATIENCE, until

REFUSAL = 0.3 * PATIENCE  # of a connection that should fail
# One that should not: the first packets are lost while the kernel still brings a new link up, and
# TCP tries again after one second, and after three.
TIMEOUT = 20.0 * PATIENCE


class Machine:
    """A namespace and the process that keeps it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["unshare", "-n", "sleep", "1800"])
        own = os.stat("/proc/thread-self/ns/net").st_ino
        wait_for(lambda: os.stat(f"/proc/{self.pid}/ns/net").st_ino != own)
        self.namespace = netns.open_of(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        os.close(self.namespace)
        self._process.kill()
        self._process.wait()

    def listen(self, address: str, port: int, *, udp: bool = False) -> socket.socket:
        with netns.entered(self.namespace):
            return listen(address, port, udp=udp)

    def connect(self, address: str, port: int) -> socket.socket:
        with netns.entered(self.namespace):
            return connect(address, port)

    def reaches(self, address: str, port: int) -> bool:
        with netns.entered(self.namespace):
            return reaches(address, port)

    def is_kept_from(self, address: str, port: int) -> bool:
        with netns.entered(self.namespace):
            return is_kept_from(address, port)


@contextmanager
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def own_host() -> Iterator[Machine]:
    """The calling thread is in a fresh namespace, with its loopback up."""
    with machine() as host, netns.entered(host.namespace):
        with Netlink() as links:
            links.execute(netlink.set_up(1, "lo"))
        yield host


def cable(inner: Machine, *, name: str, host_address: str, address: str, gateway: str) -> None:
    """Connect ``inner`` with the host that the caller is in, by a veth without a bridge."""
    subprocess.run(
        ["ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(inner.pid)],
        check=True,
    )
    with Netlink() as host:
        link = host.link(name)
        assert link is not None
        host.execute(netlink.add_address(link.index, host_address), netlink.set_up(link.index))
    with netns.entered(inner.namespace), Netlink() as inside:
        link = inside.link("eth0")
        assert link is not None
        inside.execute(
            netlink.set_up(1),
            netlink.add_address(link.index, address),
            netlink.set_up(link.index),
            netlink.add_route(link.index, "default", gateway),
        )
    wait_for(lambda: _is_running(name))


def _is_running(name: str) -> bool:
    with Netlink() as host:
        link = host.link(name)
        return link is not None and link.running


def listen(address: str, port: int, *, udp: bool = False) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    one.settimeout(TIMEOUT)
    one.bind((address, port))
    if not udp:
        one.listen()
    return one


def connect(address: str, port: int, timeout: float = TIMEOUT) -> socket.socket:
    return socket.create_connection((address, port), timeout=timeout)


def reaches(address: str, port: int) -> bool:
    """For what should be so: a lost packet is sent again."""
    return _connects(address, port, TIMEOUT)


def is_kept_from(address: str, port: int) -> bool:
    """For what should be so: there is no way to tell that from an answer that comes late."""
    return not _connects(address, port, REFUSAL)


def _connects(address: str, port: int, timeout: float) -> bool:
    try:
        connect(address, port, timeout).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    until(condition, "the network", timeout=20, step=0.005)
