"""Networks with real traffic: connect, IPv6, ports, gateway modes, isolation, macvlan."""

from __future__ import annotations

import http.client
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from common import netns
from tests import polling
from tests.engine import BUSYBOX, fresh_name
from tests.network_host import HOST, HOST6, PEER, LabEngine, lab
from tests.root.network_lab import Machine

Runner = Callable[..., str]
SERVER = ("sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def network(engine: LabEngine) -> Iterator[Runner]:
    """Makes networks by ``docker network create``; removes them and who is on them afterwards."""
    made: list[str] = []

    def create(*arguments: str) -> str:
        name = fresh_name()
        engine.docker("network", "create", *arguments, name)
        made.append(name)
        return name

    yield create
    for name in reversed(made):
        for member in engine.api("GET", f"/networks/{name}").json()["Containers"]:
            engine.api("DELETE", f"/containers/{member}?force=1")
        engine.docker("network", "rm", name)


def fetch(at: Machine, address: str, port: int, *, seconds: float = 20.0) -> bytes:
    """The page as seen from a machine; empty if it cannot be had in time."""

    def attempt() -> bytes:
        timeout = min(2.0, seconds) * polling.PATIENCE
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        try:
            with netns.entered(at.namespace):
                connection.request("GET", "/index.html")
            return connection.getresponse().read()
        except OSError:
            return b""
        finally:
            connection.close()

    try:
        return polling.until(attempt, "the page", timeout=seconds)
    except AssertionError:
        return b""


def wget(engine: LabEngine, container: str, address: str, port: int = 80) -> str:
    """What a container gets, without waiting for a server that does not listen yet."""
    host = f"[{address}]" if ":" in address else address
    done = engine.docker(
        *("exec", container, "timeout", f"{polling.PATIENCE:g}", "wget", "-q", "-O-"),
        f"http://{host}:{port}/index.html",
        check=False,
    )
    return done.stdout


def gets_page(engine: LabEngine, container: str, address: str, port: int = 80) -> bool:
    def attempt() -> bool:
        return wget(engine, container, address, port) == "hello\n"

    return polling.until(attempt, f"the page at {address}", timeout=20)


def links(engine: LabEngine, container: str) -> list[str]:
    shown = engine.docker("exec", container, "ls", "/sys/class/net").stdout.split()
    return sorted(name for name in shown if name != "lo")


def default_route(engine: LabEngine, container: str) -> str:
    lines = engine.docker("exec", container, "ip", "route").stdout.splitlines()
    return next((line for line in lines if line.startswith("default")), "")


def test_connect_and_disconnect_while_running(
    engine: LabEngine, network: Runner, running: Runner
) -> None:
    one, two = sorted((network(), network()))
    name = running("--network", one, BUSYBOX, "sleep", "100")
    friend = running("--network", two, BUSYBOX, *SERVER)
    engine.docker("network", "connect", "--alias", "guest", two, name)
    found = engine.network(name, two)
    assert found["IPAddress"]
    assert found["Aliases"] == ["guest"]
    assert links(engine, name) == ["eth0", "eth1"]
    assert gets_page(engine, name, friend)
    assert f"{found['IPAddress']}\t" in engine.docker("exec", name, "cat", "/etc/hosts").stdout
    assert engine.network(name, one)["Gateway"] in default_route(engine, name)
    engine.docker("network", "disconnect", one, name)
    assert links(engine, name) == ["eth1"]
    assert found["Gateway"] in default_route(engine, name)
    assert list(engine.inspect(name)["NetworkSettings"]["Networks"]) == [two]
    engine.docker("network", "disconnect", "-f", two, name)
    assert links(engine, name) == []
    assert found["IPAddress"] not in engine.docker("exec", name, "cat", "/etc/hosts").stdout
    assert "127.0.0.11" not in engine.docker("exec", name, "cat", "/etc/resolv.conf").stdout
    engine.docker("network", "connect", one, name)
    assert "127.0.0.11" in engine.docker("exec", name, "cat", "/etc/resolv.conf").stdout


def test_connect_and_disconnect_while_stopped(
    engine: LabEngine, network: Runner, name: str
) -> None:
    one, two = network(), network("--subnet", "10.77.0.0/24")
    engine.docker("create", "--name", name, "--network", one, BUSYBOX, "sleep", "100")
    engine.docker("network", "connect", "--ip", "10.77.0.9", two, name)
    engine.docker("network", "connect", "bridge", name)
    engine.docker("network", "disconnect", "bridge", name)
    assert engine.network(name, two)["IPAddress"] == ""
    engine.docker("start", name)
    assert engine.network(name, two)["IPAddress"] == "10.77.0.9"
    assert links(engine, name) == ["eth0", "eth1"]
    engine.restart()
    engine.docker("restart", "-t", "0", name)
    assert engine.network(name, two)["IPAddress"] == "10.77.0.9"


def test_refusals(engine: LabEngine, network: Runner, running: Runner) -> None:
    net = network()
    name = running("--network", net, BUSYBOX, "sleep", "100")
    full_id = engine.inspect(name)["Id"]

    def refused(*arguments: str) -> str:
        done = engine.docker("network", *arguments, check=False)
        assert done.returncode != 0
        return done.stderr.removeprefix("Error response from daemon: ").strip()

    assert refused("connect", net, name) == (
        f"endpoint with name {name} already exists in network {net}"
    )
    assert refused("disconnect", "bridge", name) == (
        f"container {full_id} is not connected to network bridge"
    )
    assert refused("connect", "nope", name) == "network nope not found"
    assert refused("connect", net, "nope") == "No such container: nope"
    assert refused("connect", "host", name).startswith("cannot connect container to host network")
    assert refused("rm", net).startswith(f"error while removing network: network {net} has active")
    other = running(BUSYBOX, "sleep", "100")
    stolen = engine.network(name, net)["IPAddress"]
    assert "user configured subnets" in refused("connect", "--ip", stolen, net, other)


def test_priority_of_gateways(engine: LabEngine, network: Runner, running: Runner) -> None:
    one, two = network(), network()
    name = running("--network", f"name={one},gw-priority=1", BUSYBOX, "sleep", "100")
    engine.docker("network", "connect", two, name)
    assert engine.network(name, one)["Gateway"] in default_route(engine, name)
    engine.docker("network", "disconnect", two, name)
    engine.docker("network", "connect", "--gw-priority", "2", two, name)
    assert engine.network(name, two)["Gateway"] in default_route(engine, name)


def test_options_of_an_endpoint(engine: LabEngine, network: Runner, running: Runner) -> None:
    net = network("--subnet", "10.78.0.0/24", "--subnet", "fd78::/64", "--ipv6")
    options = (
        f"name={net},ip=10.78.0.50,ip6=fd78::50,mac-address=02:00:00:00:00:50",
        "driver-opt=com.docker.network.endpoint.ifname=lan",
        "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1",
    )
    name = running("--network", ",".join(options), BUSYBOX, "sleep", "100")
    shown = engine.docker("exec", name, "ip", "addr", "show", "lan").stdout
    for expected in ("10.78.0.50/24", "fd78::50/64", "02:00:00:00:00:50"):
        assert expected in shown
    path = "/proc/sys/net/ipv4/conf/lan/log_martians"
    assert engine.docker("exec", name, "cat", path).stdout == "1\n"


@pytest.mark.parametrize("options", [("--ipv6",), ("--ipv6", "--ipv4=false"), ()])
def test_published_ports(
    engine: LabEngine, network: Runner, running: Runner, options: tuple[str, ...]
) -> None:
    net = network(*options)
    name = running("--network", net, "-p", "80", BUSYBOX, *SERVER)
    bound = engine.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"]
    port = int(bound[0]["HostPort"])
    by_ipv4 = "--ipv4=false" not in options
    assert [one["HostIp"] for one in bound] == (["0.0.0.0", "::"] if by_ipv4 else ["::"])
    addresses = [HOST6, *([HOST] if by_ipv4 else [])]
    for address in addresses:
        assert fetch(engine.machine, address, port) == b"hello\n"
        assert fetch(engine.peer, address, port) == b"hello\n"
    for address in ("::1", *(("127.0.0.1",) if by_ipv4 else ())):
        assert fetch(engine.machine, address, port) == b"hello\n"
    # From another network and from the container itself, by the host.
    other = running("--network", network("--ipv6"), BUSYBOX, "sleep", "100")
    for address in addresses:
        assert gets_page(engine, other, address, port)
        if options or address == HOST:  # a container without IPv6 has no way there
            assert gets_page(engine, name, address, port)


def test_many_ports(engine: LabEngine, running: Runner) -> None:
    name = running("-p", "21000-21299:21000-21299", BUSYBOX, "sleep", "100")
    assert len(engine.inspect(name)["NetworkSettings"]["Ports"]) == 300


@pytest.mark.parametrize("address", [HOST, HOST6])
def test_datagrams_keep_their_addresses(
    engine: LabEngine, network: Runner, running: Runner, address: str
) -> None:
    net = network("--ipv6")
    name = running("--network", net, "-p", "9000/udp", BUSYBOX, "sleep", "100")
    port = int(engine.inspect(name)["NetworkSettings"]["Ports"]["9000/udp"][0]["HostPort"])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with engine.inside(name):
        server = socket.socket(family, socket.SOCK_DGRAM)
    with netns.entered(engine.peer.namespace):
        client = socket.socket(family, socket.SOCK_DGRAM)
    with server, client:
        server.bind(("::" if ":" in address else "0.0.0.0", 9000))
        for one in (server, client):
            one.settimeout(20)
        client.sendto(b"ask", (address, port))
        data, seen = server.recvfrom(100)
        assert (data, seen[0]) == (b"ask", "fd99::2" if ":" in address else PEER)
        server.sendto(b"answer", seen)
        data, seen = client.recvfrom(100)
        assert (data, seen[:2]) == (b"answer", (address, port))


def test_isolation(engine: LabEngine, network: Runner, running: Runner) -> None:
    one, two, inside = network("--ipv6"), network("--ipv6"), network("--internal")
    server = running("--network", one, BUSYBOX, *SERVER)
    friend = running("--network", one, BUSYBOX, "sleep", "100")
    stranger = running("--network", two, BUSYBOX, "sleep", "100")
    found = engine.network(server, one)
    for address in (found["IPAddress"], found["GlobalIPv6Address"]):
        assert gets_page(engine, friend, address)
        assert wget(engine, stranger, address) == ""
        assert fetch(engine.peer, address, 80, seconds=0.5) == b""
    hidden = running("--network", inside, BUSYBOX, *SERVER)
    assert default_route(engine, hidden) == ""
    assert wget(engine, stranger, engine.network(hidden, inside)["IPAddress"]) == ""
    mate = running("--network", inside, BUSYBOX, "sleep", "100")
    assert gets_page(engine, mate, hidden)


def test_gateway_modes(engine: LabEngine, network: Runner, running: Runner) -> None:
    mode = "com.docker.network.bridge.gateway_mode_ipv{}={}"
    routed = network(
        *("--ipv6", "-o", mode.format(4, "routed"), "-o", mode.format(6, "routed")),
        *("--subnet", "10.79.0.0/24", "--subnet", "fd79::/64"),
    )
    opened = network("-o", mode.format(4, "nat-unprotected"), "--subnet", "10.80.0.0/24")
    isolated = network("--internal", "-o", mode.format(4, "isolated"))
    one = running("--network", routed, "-p", "80", BUSYBOX, *SERVER)
    closed = running("--network", routed, BUSYBOX, *SERVER)
    found = engine.network(one, routed)
    for address in (found["IPAddress"], found["GlobalIPv6Address"]):
        assert fetch(engine.peer, address, 80) == b"hello\n"
    assert fetch(engine.peer, engine.network(closed, routed)["IPAddress"], 80, seconds=0.5) == b""
    two = running("--network", opened, BUSYBOX, *SERVER)
    assert fetch(engine.peer, engine.network(two, opened)["IPAddress"], 80) == b"hello\n"
    three = running("--network", isolated, BUSYBOX, *SERVER)
    four = running("--network", isolated, BUSYBOX, "sleep", "100")
    assert gets_page(engine, four, three)
    bridge = "br-" + engine.api("GET", f"/networks/{isolated}").json()["Id"][:12]
    shown = subprocess.run(
        ["nsenter", f"--net=/proc/{engine.machine.pid}/ns/net", "ip", "-4", "addr", "show", bridge],
        capture_output=True,
        check=True,
    )
    assert b"inet " not in shown.stdout


def test_macvlan(engine: LabEngine, network: Runner, running: Runner) -> None:
    net = network(
        *("-d", "macvlan", "-o", "parent=lan0", "--subnet", "198.51.100.0/24"),
        *("--gateway", "198.51.100.1", "--ip-range", "198.51.100.128/25"),
    )
    one = running("--network", net, BUSYBOX, *SERVER)
    two = running("--network", net, BUSYBOX, "sleep", "100")
    assert fetch(engine.peer, engine.network(one, net)["IPAddress"], 80) == b"hello\n"
    assert gets_page(engine, two, one)
    engine.docker("network", "disconnect", net, two)
    assert links(engine, two) == []
    engine.docker("network", "connect", net, two)
    assert gets_page(engine, two, one)


ISOLATED = "com.docker.network.bridge.gateway_mode_ipv4=isolated"


@pytest.mark.parametrize(
    ("arguments", "gateway"),
    [
        (("--internal",), True),
        (("--internal", "-o", ISOLATED), False),
        (("-d", "macvlan"), True),
        (("-d", "macvlan", "--internal"), False),
        (("-d", "ipvlan", "--internal"), False),
        (("-d", "ipvlan", "-o", "ipvlan_mode=l3"), False),
        (
            ("-d", "macvlan", "--internal", "--subnet", "10.83.0.0/24", "--gateway", "10.83.0.1"),
            True,
        ),
    ],
)
def test_gateways_are_given_where_needed(
    engine: LabEngine, network: Runner, arguments: tuple[str, ...], *, gateway: bool
) -> None:
    ipam = engine.api("GET", f"/networks/{network(*arguments)}").json()["IPAM"]
    assert ("Gateway" in ipam["Config"][0]) == gateway
    assert ipam["Options"] == {}  # what the client sends, whoever its user is


def test_macvlan_without_a_parent(engine: LabEngine, network: Runner, running: Runner) -> None:
    """Its containers have each other and nobody else."""
    net = network("-d", "macvlan")
    server = running("--network", net, BUSYBOX, *SERVER)
    mate = running("--network", net, BUSYBOX, "sleep", "100")
    assert gets_page(engine, mate, server)
    assert default_route(engine, mate) == ""
    address = engine.network(server, net)["IPAddress"]
    assert fetch(engine.machine, address, 80, seconds=0.5) == b""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("parent=nope0",), "invalid subinterface vlan name nope0, example formatting is eth0.10"),
        (("parent=nope0.10",), "-o parent interface was not found on the host: nope0"),
        (("parent=lan0.0",), "vlan id must be between 1-4094, received: 0"),
        (("parent=lo",), "loopback interface is not a valid macvlan parent link"),
        (
            ("macvlan_mode=nope", "parent=lan0"),
            "requested macvlan mode 'nope' is not valid, "
            "'bridge' mode is the macvlan driver default",
        ),
    ],
)
def test_macvlan_options(engine: LabEngine, options: tuple[str, ...], text: str) -> None:
    words = [word for option in options for word in ("-o", option)]
    done = engine.docker("network", "create", "-d", "macvlan", *words, fresh_name(), check=False)
    assert done.stderr.strip() == f"Error response from daemon: {text}"


def test_ports_follow_the_default_route(
    engine: LabEngine, network: Runner, running: Runner
) -> None:
    """Where the host drops what comes in by another way than answers go, ports must move along."""
    first, second = sorted((network(), network()))
    outside = network("-d", "macvlan", "-o", "parent=lan0", "--subnet", "198.51.100.0/24")
    name = running("--network", second, "-p", "80", BUSYBOX, *SERVER)

    def port() -> int:
        return int(engine.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])

    chosen = port()
    with netns.entered(engine.machine.namespace):
        for link in ("all", "default"):
            netns.write_sysctls({f"net/ipv4/conf/{link}/rp_filter": "1"})
    assert fetch(engine.peer, HOST, chosen) == b"hello\n"
    engine.docker("network", "connect", first, name)
    assert engine.network(name, first)["Gateway"] in default_route(engine, name)
    assert fetch(engine.peer, HOST, chosen) == b"hello\n"
    engine.docker("network", "connect", "--gw-priority", "1", outside, name)
    assert engine.inspect(name)["NetworkSettings"]["Ports"] == {"80/tcp": None}
    assert fetch(engine.peer, HOST, chosen, seconds=0.5) == b""
    engine.docker("network", "disconnect", outside, name)
    assert fetch(engine.peer, HOST, port()) == b"hello\n"
    engine.docker("network", "disconnect", first, name)
    assert fetch(engine.peer, HOST, port()) == b"hello\n"


def test_templates(engine: LabEngine, network: Runner) -> None:
    template = network("--config-only", "--subnet", "10.81.0.0/24", "--label", "a=b")
    made = network("--config-from", template)
    found = engine.api("GET", f"/networks/{made}").json()
    assert found["IPAM"]["Config"] == [{"Subnet": "10.81.0.0/24"}]
    assert found["ConfigFrom"] == {"Network": template}
    done = engine.docker("network", "rm", template, check=False)
    assert done.returncode != 0


def test_removed_rules_come_back(engine: LabEngine, running: Runner) -> None:
    name = running("-p", "80", BUSYBOX, *SERVER)
    port = int(engine.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"])
    assert fetch(engine.peer, HOST, port) == b"hello\n"
    namespace = f"--net=/proc/{engine.machine.pid}/ns/net"
    subprocess.run(["nsenter", namespace, "nft", "flush", "ruleset"], check=True)
    assert fetch(engine.peer, HOST, port) == b"hello\n"
