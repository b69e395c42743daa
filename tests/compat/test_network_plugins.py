"""Networks whose driver, or whose addresses, are a plugin's: tests/network_plugin.py.

Texts and the order of calls are those of Docker Engine 28.5.2 with the same plugin.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.engine import BUSYBOX, OwnEngine, fresh_name
from tests.plugin_process import NOTHING, PluginProcess, links, network_plugin, running

# One for each test process, so that runs side by side do not meet.
SUBNET = f"10.{150 + os.getpid() % 40}.7"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[PluginProcess]:
    with network_plugin(tmp_path / "plugin") as found:
        yield found


@pytest.fixture
def network(own_engine: OwnEngine, plugin: PluginProcess) -> Iterator[Callable[..., str]]:
    made: list[str] = []

    def make(*arguments: str) -> str:
        made.append(fresh_name())
        own_engine.docker("network", "create", "-d", plugin.name, *arguments, made[-1])
        return made[-1]

    yield make
    for name in made:
        own_engine.api("DELETE", f"/networks/{name}")


def create(engine: OwnEngine, **body: Any) -> tuple[int, str]:
    answer = engine.api("POST", "/networks/create", {"Name": "t-refused", **body})
    return answer.status, answer.json().get("message", "")


@pytest.fixture
def containers(own_engine: OwnEngine) -> Iterator[Callable[..., str]]:
    """Gone before the networks are."""
    started: list[str] = []

    def start(network: str, *arguments: str) -> str:
        started.append(fresh_name())
        line = ("--name", started[-1], "--network", network, *arguments)
        own_engine.docker("run", "-d", *line, BUSYBOX, "sleep", "1000")
        return started[-1]

    yield start
    for name in started:
        own_engine.api("DELETE", f"/containers/{name}?force=1")


def test_two_containers(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    engine = own_engine
    name = network(
        *("--subnet", f"{SUBNET}.0/24", "--ipam-driver", plugin.name),
        *("--ipam-opt", "k=v", "-o", "colour=red"),
    )
    shown = engine.api("GET", f"/networks/{name}").json()
    assert (shown["Driver"], shown["Options"]) == (plugin.name, {"colour": "red"})
    assert shown["IPAM"] == {
        "Driver": plugin.name,
        "Options": {"k": "v"},
        "Config": [{"Subnet": f"{SUBNET}.0/24"}],
    }
    assert plugin.name in engine.api("GET", "/info").json()["Plugins"]["Network"]
    one = containers(name, "--network-alias", "friend", "--expose", "81")
    two = containers(name)

    found = engine.inspect(one)["NetworkSettings"]
    endpoint = found["Networks"][name]
    assert (endpoint["IPAddress"], endpoint["IPPrefixLen"]) == (f"{SUBNET}.101", 24)
    assert endpoint["Gateway"] == f"{SUBNET}.100"
    assert endpoint["MacAddress"] == "02:fe:" + ":".join(
        endpoint["EndpointID"][i : i + 2] for i in (0, 2, 4, 6)
    )
    assert plugin.held()["joined"][endpoint["EndpointID"]] == found["SandboxKey"]
    routes = engine.docker("exec", one, "ip", "route").stdout
    assert f"default via {SUBNET}.100 dev plug0" in routes
    assert "10.214.0.0/16 dev plug0" in routes

    engine.docker("exec", two, "ping", "-c", "1", "-W", "10", "friend")
    engine.docker("exec", "-d", one, "nc", "-ll", "-p", "99", "-e", "echo", "hello")
    said = polling.until(
        lambda: engine.docker("exec", two, "nc", "-w", "10", one, "99", check=False).stdout, "nc"
    )
    assert said == "hello\n"
    engine.docker("rm", "-f", one, two)
    assert engine.docker("network", "rm", name).stdout == f"{name}\n"
    assert plugin.held() == NOTHING


def test_calls_are_in_dockers_order(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    name = network("--subnet", f"{SUBNET}.0/24", "--ipam-driver", plugin.name)
    one = containers(name, "-p", "0:80")
    own_engine.docker("rm", "-f", one)
    own_engine.docker("network", "rm", name)
    assert plugin.methods() == [
        "NetworkDriver.GetCapabilities",
        "IpamDriver.GetCapabilities",
        "IpamDriver.GetDefaultAddressSpaces",
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
        "NetworkDriver.CreateNetwork",
        "IpamDriver.RequestAddress",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.ProgramExternalConnectivity",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.RevokeExternalConnectivity",
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "IpamDriver.ReleaseAddress",
        "NetworkDriver.DeleteNetwork",
        "IpamDriver.ReleaseAddress",
        "IpamDriver.ReleasePool",
    ]
    assert plugin.calls("NetworkDriver.Join")[0]["Options"] == {
        "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
        "com.docker.network.portmap": [
            {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 0, "HostPortEnd": 0}
        ],
    }


def test_internal_network_with_ipv6_and_a_mac(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    """The built-in IPAM gives the addresses."""
    name = network(
        *("--internal", "--ipv6", "--subnet", f"{SUBNET}.0/24", "--subnet", "fd5e:77::/64"),
        *("--aux-address", f"a={SUBNET}.9"),
    )
    sent = plugin.calls("NetworkDriver.CreateNetwork")[0]
    assert sent["IPv4Data"] == [
        {
            "AddressSpace": "LocalDefault",
            "Pool": f"{SUBNET}.0/24",
            "Gateway": f"{SUBNET}.1/24",
            "AuxAddresses": {"a": f"{SUBNET}.9/24"},
        }
    ]
    assert sent["IPv6Data"][0]["Gateway"] == "fd5e:77::1/64"
    assert sent["Options"]["com.docker.network.internal"] is True
    one = containers(name, "--mac-address", "02:00:00:00:00:33", "--ip", f"{SUBNET}.55")
    body = plugin.calls("NetworkDriver.CreateEndpoint")[0]
    assert body["Interface"] == {
        "Address": f"{SUBNET}.55/24",
        "AddressIPv6": "fd5e:77::2/64",
        "MacAddress": "02:00:00:00:00:33",
    }
    assert body["Options"]["com.docker.network.endpoint.macaddress"] == "AgAAAAAz"
    shown = own_engine.docker("exec", one, "ip", "addr", "show", "plug0").stdout
    assert "02:00:00:00:00:33" in shown
    assert "inet6 fd5e:77::2/64" in shown
    assert "default" not in own_engine.docker("exec", one, "ip", "route").stdout
    assert "NetworkDriver.ProgramExternalConnectivity" not in plugin.methods()


def test_connect_and_disconnect_while_running(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    engine = own_engine
    name = network("--subnet", f"{SUBNET}.0/24")
    one, two = containers("bridge"), containers(name)
    engine.docker("network", "connect", name, one)
    addresses = engine.inspect(two)["NetworkSettings"]["Networks"][name]["IPAddress"]
    engine.docker("exec", one, "ping", "-c", "1", "-W", "10", addresses)
    engine.docker("exec", two, "ping", "-c", "1", "-W", "10", one)
    engine.docker("network", "disconnect", name, one)
    assert name not in engine.inspect(one)["NetworkSettings"]["Networks"]
    assert "plug0" not in engine.docker("exec", one, "ip", "link").stdout
    assert "default via" in engine.docker("exec", one, "ip", "route").stdout
    assert len(plugin.held()["endpoints"]) == 1

    engine.docker("restart", "-t", "0", two)
    engine.docker("exec", two, "ping", "-c", "1", "-W", "10", f"{SUBNET}.1")
    engine.docker("stop", "-t", "0", two)
    assert plugin.held()["endpoints"] == {}
    assert (len(plugin.held()["networks"]), plugin.held()["joined"]) == (1, {})


def test_interface_is_the_plugins_again_before_it_is_told(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    one = containers(network("--subnet", f"{SUBNET}.0/24"))
    given = next(iter(plugin.held()["endpoints"].values()))["given"]
    assert given not in links()
    with plugin.hold("NetworkDriver.Leave"):
        stopping = own_engine.spawn("stop", "-t", "0", one)
        polling.until(lambda: "NetworkDriver.Leave" in plugin.methods(), "the plugin to be told")
        assert given in links()
    stopping.communicate(timeout=20)
    assert stopping.returncode == 0


def test_addresses_that_the_driver_chooses(
    own_engine: OwnEngine, plugin: PluginProcess, network: Callable[..., str]
) -> None:
    name = network("--ipam-driver", "null")
    sent = plugin.calls("NetworkDriver.CreateNetwork")[0]
    assert sent["IPv4Data"] == [{"AddressSpace": "null", "Pool": "0.0.0.0/0"}]
    answer = {"Interface": {"Address": f"{SUBNET}.88/24", "MacAddress": "02:00:00:00:00:09"}}
    plugin.say("NetworkDriver.CreateEndpoint", answer)
    plugin.say("NetworkDriver.Join", {"DisableGatewayService": True})
    one = fresh_name()
    line = ("run", "--name", one, "--network", name, BUSYBOX, "cat", "/etc/hosts", "/proc/net/dev")
    try:
        shown = own_engine.docker(*line).stdout
        assert f"{SUBNET}.88" in shown
        assert "plug0" not in shown  # it gave no interface
    finally:
        own_engine.docker("rm", "-f", one)
        plugin.unsay()


def test_way_out_where_the_driver_gives_none(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
) -> None:
    engine = own_engine
    name = network("--subnet", f"{SUBNET}.0/24")
    plugin.say("NetworkDriver.Join", {"InterfaceName": {}})
    try:
        one = containers(name, "-p", "127.0.0.1:0:80")
        network_found = engine.api("GET", "/networks/docker_gwbridge").json()
        member = network_found["Containers"][engine.inspect(one)["Id"]]
        assert member["Name"].startswith("gateway_")
        address = member["IPv4Address"].partition("/")[0]
        assert address in engine.docker("exec", one, "ip", "addr").stdout
        settings = engine.inspect(one)["NetworkSettings"]
        assert list(settings["Networks"]) == [name]
        port = int(settings["Ports"]["80/tcp"][0]["HostPort"])
        engine.docker("exec", "-d", one, "nc", "-ll", "-p", "80", "-e", "echo", "out")
        said = polling.until(lambda: receive(port), "the published port")
        assert said == b"out\n"
        plugin.unsay()
        engine.docker("rm", "-f", one)
    finally:
        engine.docker("rm", "-f", one)
        engine.docker("network", "rm", "docker_gwbridge")


def receive(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            return client.recv(100)
    except OSError:
        return b""


def test_bridge_with_a_plugins_addresses(
    own_engine: OwnEngine, plugin: PluginProcess, containers: Callable[..., str]
) -> None:
    engine = own_engine
    name = fresh_name()
    engine.docker(
        *("network", "create", "--ipam-driver", plugin.name, "--subnet", f"{SUBNET}.0/24"),
        *("--ip-range", f"{SUBNET}.128/25", "--aux-address", f"b={SUBNET}.4", name),
    )
    try:
        assert plugin.calls("IpamDriver.RequestPool")[0]["SubPool"] == f"{SUBNET}.128/25"
        one, two = containers(name), containers(name, "--ip", f"{SUBNET}.50")
        assert plugin.held()["pools"][f"id-{SUBNET}.0/24"]["taken"] == [
            f"{SUBNET}.{last}" for last in (100, 4, 101, 50)
        ]
        engine.docker("exec", one, "ping", "-c", "1", "-W", "10", two)
        engine.docker("exec", one, "ping", "-c", "1", "-W", "10", f"{SUBNET}.100")
        engine.docker("rm", "-f", one, two)
    finally:
        engine.docker("network", "rm", name)


def test_plugin_that_wants_mac_addresses(
    own_engine: OwnEngine, plugin: PluginProcess, containers: Callable[..., str]
) -> None:
    plugin.say("IpamDriver.GetCapabilities", {"RequiresMACAddress": True})
    name = fresh_name()
    line = ("--ipam-driver", plugin.name, "--subnet", f"{SUBNET}.0/24", name)
    own_engine.docker("network", "create", *line)
    try:
        one = containers(name)
        options = plugin.calls("IpamDriver.RequestAddress")[-1]["Options"]
        found = own_engine.inspect(one)["NetworkSettings"]["Networks"][name]
        assert options == {"com.docker.network.endpoint.macaddress": found["MacAddress"]}
        own_engine.docker("rm", "-f", one)
    finally:
        own_engine.docker("network", "rm", name)


def test_refusals_of_networks(own_engine: OwnEngine, plugin: PluginProcess) -> None:
    driver = plugin.name
    refused = {"Driver": driver, "Options": {"refuse": "1"}}
    assert create(own_engine, **refused) == (500, "remote: refused as asked")
    assert create(own_engine, Driver="t-nothing") == (404, 'plugin "t-nothing" not found')
    assert create(own_engine, IPAM={"Driver": "null"}) == (400, "ipv4 pool is empty")
    plugin_ipam = {"Driver": driver, "IPAM": {"Driver": driver}}
    plugin.say("IpamDriver.RequestPool", {"Error": "no pool today"})
    assert create(own_engine, **plugin_ipam) == (500, "remote: no pool today")
    plugin.unsay()
    plugin.say("IpamDriver.RequestAddress", {"Error": "no address today"})
    text = "failed to allocate gateway (): remote: no address today"
    plugin_ipam["IPAM"] = {"Driver": driver, "Config": [{"Subnet": f"{SUBNET}.0/24"}]}
    assert create(own_engine, **plugin_ipam) == (500, text)
    plugin.unsay()


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ({"Scope": "odd"}, 500, "could not resolve driver {} in registry"),
        ({"Scope": "global"}, 503, "not a swarm manager"),
    ],
)
def test_scopes_that_are_refused(
    own_engine: OwnEngine, plugin: PluginProcess, answer: Any, status: int, text: str
) -> None:
    plugin.say("NetworkDriver.GetCapabilities", answer)
    found = create(own_engine, Driver=plugin.name)
    assert found[0] == status
    assert text.format(plugin.name) in found[1]


def test_driver_that_is_for_volumes(own_engine: OwnEngine, tmp_path: Path) -> None:
    with running("tests.volume_plugin", tmp_path / "volumes") as other:
        assert create(own_engine, Driver=other.name) == (
            500,
            "legacy plugin: Plugin does not implement the requested driver: "
            f'plugin="{other.name}", requested implementation="NetworkDriver"',
        )


START = "failed to set up container networking: "
ENDPOINT = "failed to create endpoint {container} on network {network}: "
PRESENT = f"endpoint interface IP present ({SUBNET}.2/24). Cannot be modified with (10.1.2.3/24)."


@pytest.mark.parametrize(
    ("method", "answer", "text"),
    [
        ("CreateEndpoint", {"Err": "not today"}, ENDPOINT + "remote: not today"),
        ("Join", {"Err": "not today"}, "remote: not today"),
        (
            "Join",
            {"InterfaceName": {"SrcName": "t-gone", "DstPrefix": "eth"}},
            "failed to add interface t-gone to sandbox: "
            'failed to get link by name "t-gone": Link not found',
        ),
        ("Join", {"Gateway": "nowhere"}, 'unable to parse Gateway "nowhere"'),
        (
            "CreateEndpoint",
            {"Interface": {"Address": "10.1.2.3/24"}},
            f"{ENDPOINT}driver modified interface address: {PRESENT}",
        ),
    ],
)
def test_refusals_of_containers(
    own_engine: OwnEngine,
    plugin: PluginProcess,
    network: Callable[..., str],
    containers: Callable[..., str],
    method: str,
    answer: Any,
    text: str,
) -> None:
    """At a start and at a connect; nothing is left of either."""
    engine = own_engine
    name = network("--subnet", f"{SUBNET}.0/24")
    one, two = fresh_name(), containers("bridge")
    plugin.say(f"NetworkDriver.{method}", answer)
    engine.docker("create", "--name", one, "--network", name, BUSYBOX, "true")
    try:
        started = engine.api("POST", f"/containers/{one}/start")
        expected = START + text.format(container=one, network=name)
        assert (started.status, started.message) == (500, expected)
        state = engine.inspect(one)["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("created", 128, expected)
        body = {"Container": two}
        connected = engine.api("POST", f"/networks/{name}/connect", body)
        expected = text.format(container=two, network=name)
        assert (connected.status, connected.message) == (500, expected)
        assert list(engine.inspect(two)["NetworkSettings"]["Networks"]) == ["bridge"]
        assert "plug" not in engine.docker("exec", two, "ip", "link").stdout
        assert plugin.held()["joined"] == {}
        if "Interface" not in answer:
            assert plugin.held()["endpoints"] == {}
        assert not list((engine.exec_root / "netns").iterdir())
    finally:
        engine.docker("rm", "-f", one)
        plugin.unsay()
