"""--network bridge, host and none, published ports, names and addresses."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, Engine, OwnEngine

Runner = Callable[..., str]
SERVER = ("sh", "-c", "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www")


def endpoint(engine: Engine, name: str) -> Any:
    return engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]


def fetch(host: str, port: int) -> bytes:
    """The page, once the server in the container listens."""

    def attempt() -> bytes | None:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/index.html")
            return connection.getresponse().read()
        except OSError:
            return None
        finally:
            connection.close()

    return polling.until(attempt, f"an answer from {host}:{port}") or b""


def published(engine: Engine, name: str, port: str = "80/tcp") -> int:
    return int(engine.inspect(name)["NetworkSettings"]["Ports"][port][0]["HostPort"])


def test_bridge_address(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sleep", "100")
    found = endpoint(engine, name)
    network = ipaddress.ip_interface(f"{found['IPAddress']}/{found['IPPrefixLen']}").network
    assert ipaddress.ip_address(found["Gateway"]) in network
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", found["MacAddress"])
    shown = engine.docker("exec", name, "ip", "addr", "show", "eth0").stdout
    assert f"inet {found['IPAddress']}/{found['IPPrefixLen']}" in shown
    assert found["MacAddress"] in shown
    assert (
        f"default via {found['Gateway']} dev eth0"
        in engine.docker("exec", name, "ip", "route").stdout
    )
    top = engine.inspect(name)["NetworkSettings"]
    assert (top["IPAddress"], top["Gateway"]) == (found["IPAddress"], found["Gateway"])


def test_reaches_the_host(engine: Engine, running: Runner) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        listener.settimeout(10)
        name = running(BUSYBOX, "sleep", "100")
        gateway, port = endpoint(engine, name)["Gateway"], listener.getsockname()[1]
        engine.docker("exec", "-d", name, "sh", "-c", f"echo hi | nc {gateway} {port}")
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(10) == b"hi\n"


def test_containers_reach_each_other(engine: Engine, running: Runner) -> None:
    server = running(BUSYBOX, *SERVER)
    address = endpoint(engine, server)["IPAddress"]
    fetch(address, 80)
    page = engine.docker(
        "run", "--rm", BUSYBOX, "wget", "-q", "-O-", f"http://{address}/index.html"
    )
    assert page.stdout == "hello\n"


def test_ping_of_the_gateway(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sleep", "100")
    engine.docker("exec", name, "ping", "-c", "1", "-w", "5", endpoint(engine, name)["Gateway"])


def test_network_none(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--network", "none", BUSYBOX, "ip", "-o", "addr")
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"lo"}


def test_network_host(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "--network", "host", BUSYBOX, "ls", "/sys/class/net")
    links = set(engine.docker("logs", name).stdout.split())
    assert {p.name for p in Path("/sys/class/net").iterdir()} >= {"lo"}
    assert len(links & {p.name for p in Path("/sys/class/net").iterdir()}) > 1
    assert list(engine.inspect(name)["NetworkSettings"]["Networks"]) == ["host"]
    hostname = engine.docker("run", "--rm", "--network", "host", BUSYBOX, "hostname").stdout.strip()
    assert hostname == socket.gethostname()


def test_network_of_another_container(engine: Engine, running: Runner) -> None:
    server = running(BUSYBOX, *SERVER)
    fetch(endpoint(engine, server)["IPAddress"], 80)
    arguments = ("--network", f"container:{server}", BUSYBOX, "wget", "-q", "-O-")
    page = engine.docker("run", "--rm", *arguments, "http://127.0.0.1/index.html")
    assert page.stdout == "hello\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "gateway"])
def test_published_port_answers_from_the_host(
    engine: Engine, own_engine: OwnEngine, running: Runner, host: str
) -> None:
    name = running("-p", "80", BUSYBOX, *SERVER)
    address = endpoint(engine, name)["Gateway"] if host == "gateway" else host
    assert fetch(address, published(engine, name)) == b"hello\n"


def test_published_port_answers_from_another_container(
    engine: Engine, own_engine: OwnEngine, running: Runner
) -> None:
    server = running("-p", "80", BUSYBOX, *SERVER)
    fetch("127.0.0.1", published(engine, server))
    url = f"http://{endpoint(engine, server)['Gateway']}:{published(engine, server)}/index.html"
    assert engine.docker("run", "--rm", BUSYBOX, "wget", "-q", "-O-", url).stdout == "hello\n"


def test_published_port_is_free_afterwards(
    engine: Engine, own_engine: OwnEngine, running: Runner
) -> None:
    name = running("-p", "80", BUSYBOX, *SERVER)
    port = published(engine, name)
    fetch("127.0.0.1", port)
    engine.docker("rm", "-f", name)
    again = running("-p", f"{port}:80", BUSYBOX, *SERVER)
    assert fetch("127.0.0.1", port) == b"hello\n"
    engine.docker("stop", "-t", "0", again)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    engine.docker("start", again)
    assert fetch("127.0.0.1", port) == b"hello\n"


def test_port_on_one_address(engine: Engine, own_engine: OwnEngine, running: Runner) -> None:
    name = running("-p", "127.0.0.1::80", BUSYBOX, *SERVER)
    port = published(engine, name)
    assert fetch("127.0.0.1", port) == b"hello\n"
    with socket.socket() as probe:
        assert probe.connect_ex((endpoint(engine, name)["Gateway"], port)) != 0


UDP_ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 9000))
print("ready", flush=True)
while True:
    data, sender = server.recvfrom(100)
    server.sendto(b"got " + data, sender)
"""


def test_udp_port(engine: Engine, own_engine: OwnEngine, running: Runner) -> None:
    name = running("-p", "9000/udp", BUSYBOX, "sleep", "100")
    port = published(engine, name, "9000/udp")
    # busybox has no server for UDP, so one of the host's is put into the container's network.
    pid = str(engine.inspect(name)["State"]["Pid"])
    command = ["nsenter", "-t", pid, "-n", sys.executable, "-c", UDP_ECHO]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        client.settimeout(20)
        client.connect(("127.0.0.1", port))
        try:
            for word in (b"one", b"two"):
                client.send(word)
                assert client.recv(100) == b"got " + word
        finally:
            server.kill()


def test_ports_in_inspect_and_list(engine: Engine, running: Runner) -> None:
    name = running("-p", "80", "--expose", "81/udp", BUSYBOX, "sleep", "100")
    found = engine.inspect(name)
    ports = found["NetworkSettings"]["Ports"]
    assert ports["81/udp"] is None
    assert ports["80/tcp"][0]["HostIp"] == "0.0.0.0"
    assert 1024 < int(ports["80/tcp"][0]["HostPort"]) < 65536
    assert found["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": ""}]}
    shown = engine.docker("port", name).stdout
    assert f"80/tcp -> 0.0.0.0:{ports['80/tcp'][0]['HostPort']}" in shown


def test_publish_all(engine: Engine, running: Runner) -> None:
    name = running("-P", "--expose", "80", "--expose", "81", BUSYBOX, "sleep", "100")
    ports = engine.inspect(name)["NetworkSettings"]["Ports"]
    assert ports["80/tcp"][0]["HostPort"] != ports["81/tcp"][0]["HostPort"]


def test_hosts_file(engine: Engine) -> None:
    arguments = ("-h", "box", "--add-host", "other:10.1.2.3", "--add-host", "up:host-gateway")
    text = engine.docker("run", "--rm", *arguments, BUSYBOX, "cat", "/etc/hosts").stdout
    assert re.search(r"^127\.0\.0\.1\tlocalhost$", text, re.M)
    assert re.search(r"^10\.1\.2\.3\tother$", text, re.M)
    assert re.search(r"^\d+\.\d+\.\d+\.\d+\tup$", text, re.M)
    assert re.search(r"^\d+\.\d+\.\d+\.\d+\tbox$", text, re.M)


def test_resolver_file(engine: Engine) -> None:
    arguments = ("--dns", "10.9.8.7", "--dns-search", "example.test", "--dns-option", "ndots:3")
    text = engine.docker("run", "--rm", *arguments, BUSYBOX, "cat", "/etc/resolv.conf").stdout
    assert "nameserver 10.9.8.7" in text
    assert "search example.test" in text
    assert "ndots:3" in text


def test_files_can_be_written_and_stay(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sh", "-c", "echo 10.1.1.1 mine >> /etc/hosts; sleep 100")
    polling.until(
        lambda: "mine" in engine.docker("exec", name, "cat", "/etc/hosts").stdout, "the new line"
    )
    assert engine.docker("exec", name, "cat", "/etc/hostname").stdout.strip()


def test_addresses_come_back(engine: Engine, running: Runner) -> None:
    name = running(BUSYBOX, "sleep", "100")
    assert endpoint(engine, name)["IPAddress"]
    engine.docker("stop", "-t", "0", name)
    assert endpoint(engine, name)["IPAddress"] == ""


def test_addresses_differ(engine: Engine, running: Runner) -> None:
    names = [running(BUSYBOX, "sleep", "100") for _ in range(5)]
    assert len({endpoint(engine, name)["IPAddress"] for name in names}) == 5
    assert len({endpoint(engine, name)["MacAddress"] for name in names}) == 5


def test_no_route_to_other_networks_from_none(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--network", "none", BUSYBOX, "ip", "route")
    assert done.stdout == ""


def test_default_networks(engine: Engine) -> None:
    found = {network["Name"]: network for network in engine.api("GET", "/networks").json()}
    assert {"bridge", "host", "none"} <= set(found)
    assert found["bridge"]["Driver"] == "bridge"
    assert ipaddress.ip_network(found["bridge"]["IPAM"]["Config"][0]["Subnet"])
