"""NetworkService with real bridges and a real table, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common import endpoint as plugging
from common import netns
from common.database import Database
from common.errors import EngineError, InternalError, InvalidArgument, NotFound, PermissionDenied
from common.ids import new_id
from common.netlink import Netlink
from common.options import EngineOptions
from common.paths import Paths
from lifecycle.network_records import EndpointRequest, IpamConfig, NetworkRequest
from lifecycle.networks import NetworkService
from networking.ports import BoundPort, PortBinding
from tests.descriptors import descriptors
from tests.root.network_lab import Machine, machine, own_host, reaches, wait_for


class Engine:
    """A service as lifecycle would run it, and again after its death."""

    def __init__(self, root: Path, options: EngineOptions) -> None:
        self.paths = Paths(root / "data", root / "exec")
        for path in (self.paths.data_root, self.paths.exec_root):
            path.mkdir(exist_ok=True)
        self.database = Database(self.paths.database)
        self.service = NetworkService(self.database, self.paths, options)
        self.warnings = self.service.start()
        self._open = True

    def close(self) -> None:
        if self._open:
            self.service.close()
            self.database.close()
        self._open = False


class Lab:
    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.stack = stack
        stack.enter_context(own_host())
        self.engine = self.start()

    def start(self, options: EngineOptions | None = None, live: tuple[str, ...] = ()) -> Engine:
        engine = Engine(self.root, options or EngineOptions())
        self.stack.callback(engine.close)
        self.removed = engine.service.restore(live)
        return engine

    @property
    def networks(self) -> NetworkService:
        return self.engine.service

    def run(
        self, container_id: str, network: str = "bridge", *ports: PortBinding, **request: str
    ) -> tuple[Machine, list[BoundPort]]:
        """What lifecycle and a shim do at a container's start."""
        name = f"c-{container_id[:6]}"
        self.networks.connect(container_id, name, network, EndpointRequest(**request))  # type: ignore[arg-type]
        made = self.stack.enter_context(machine())
        plugging.plug_all(made.pid, self.networks.for_shim(container_id))
        bound = self.networks.publish(container_id, ports)
        for port in bound:
            self.stack.enter_context(port.socket)
        return made, bound


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(tmp_path, stack)


def links() -> set[str]:
    with Netlink() as host:
        return {link.name for link in host.links()}


def table() -> str:
    command = ["nft", "list", "ruleset"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def published() -> set[str]:
    """The host's ports in the table; other numbers in its text are parts of ids."""
    return set(re.findall(r"\b(?:tcp|udp) \. (\d+)", table()))


def test_predefined_networks(lab: Lab) -> None:
    found = {record.name: record for record in lab.networks.list_all()}
    assert set(found) == {"bridge", "host", "none"}
    default = found["bridge"]
    assert (default.bridge, default.subnet, default.gateway) == (
        "docker0",
        "172.17.0.0/16",
        "172.17.0.1",
    )
    assert default.options["com.docker.network.bridge.default_bridge"] == "true"
    with pytest.raises(PermissionDenied, match="host is a pre-defined network and cannot be remov"):
        lab.networks.remove("host")
    ids = {name: record.id for name, record in found.items()}
    lab.engine.close()
    lab.engine = lab.start()
    assert {record.name: record.id for record in lab.networks.list_all()} == ids


def test_another_engines_bridge_is_left_alone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(own_host())
        subprocess.run(["ip", "link", "add", "docker0", "type", "bridge"], check=True)
        subprocess.run(["ip", "addr", "add", "172.17.0.1/16", "dev", "docker0"], check=True)
        engine = Engine(tmp_path, EngineOptions())
        stack.callback(engine.close)
        default = engine.service.get("bridge")
        assert (default.bridge, default.subnet) == ("longshore0", "172.18.0.0/16")


def test_bip_and_fixed_cidr(tmp_path: Path) -> None:
    options = EngineOptions(bip="10.77.0.5/24", fixed_cidr="10.77.0.64/26", mtu=1400)
    with ExitStack() as stack:
        stack.enter_context(own_host())
        engine = Engine(tmp_path, options)
        stack.callback(engine.close)
        engine.service.restore(())
        record = engine.service.connect(new_id(), "a", "bridge", EndpointRequest())
        assert (record.ip_address, record.gateway) == ("10.77.0.64", "10.77.0.5")
        (made,) = engine.service.for_shim(record.container_id)
        assert made.mtu == 1400


@pytest.mark.parametrize("exists", [True, False])
def test_bridge_of_the_administrator(tmp_path: Path, *, exists: bool) -> None:
    with ExitStack() as stack:
        stack.enter_context(own_host())
        if exists:
            subprocess.run(["ip", "link", "add", "mine0", "type", "bridge"], check=True)
            subprocess.run(["ip", "addr", "add", "10.7.0.1/24", "dev", "mine0"], check=True)
        engine = Engine(tmp_path, EngineOptions(bridge="mine0"))
        stack.callback(engine.close)
        assert engine.warnings == []
        default = engine.service.get("bridge")
        assert default.adopted == exists
        assert default.subnet == ("10.7.0.0/24" if exists else "172.17.0.0/16")
        engine.close()
        engine = Engine(tmp_path, EngineOptions(bridge="mine0"))
        stack.callback(engine.close)
        assert engine.warnings == []
        assert engine.service.get("bridge") == default
        assert "docker0" not in links()


def test_containers_life(lab: Lab) -> None:
    before = links()
    one, two = new_id(), new_id()
    web, bound = lab.run(one, "bridge", PortBinding("tcp", 80, "", (8080, 8080)))
    (record,) = lab.networks.endpoints_of(one)
    assert published() == {"8080"}
    assert (record.ip_address, record.gateway, record.ifname) == (
        "172.17.0.2",
        "172.17.0.1",
        "eth0",
    )
    assert record.mac == "02:42:ac:11:00:02"
    assert [(port.host_ip, port.host_port) for port in bound] == [("0.0.0.0", 8080), ("::", 8080)]
    with web.listen("0.0.0.0", 80):
        assert reaches("127.0.0.1", 8080)
        friend, _ = lab.run(two)
        assert friend.reaches("172.17.0.1", 8080)
    with pytest.raises(PermissionDenied, match="already exists in network bridge"):
        lab.networks.connect(one, "x", "bridge", EndpointRequest())
    for port in bound:
        port.socket.close()
    lab.networks.release(one)
    lab.networks.release(two)
    web.close = friend.close = lambda: None  # type: ignore[method-assign]
    for made in (web, friend):
        Machine.close(made)
    wait_for(lambda: links() == before)
    assert published() == set()
    assert lab.networks.endpoints_of(one) == []
    again, _ = lab.run(new_id())
    assert again.pid
    assert lab.networks.members(lab.networks.get("bridge").id)[0].ip_address == "172.17.0.2"


def test_taken_ports(lab: Lab) -> None:
    one, two = new_id(), new_id()
    lab.run(one, "bridge", PortBinding("tcp", 80, "", (8080, 8080)))
    lab.networks.connect(two, "two", "bridge", EndpointRequest())
    (endpoint,) = lab.networks.endpoints_of(two)
    start = f"driver failed programming external connectivity on endpoint two ({endpoint.id}): "
    for host_ip in ("", "127.0.0.1"):
        with pytest.raises(InternalError) as refused:
            lab.networks.publish(two, [PortBinding("tcp", 80, host_ip, (8080, 8080))])
        assert str(refused.value) == start + (
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        )
    with socket.create_server(("0.0.0.0", 8081)), pytest.raises(InternalError) as refused:
        lab.networks.publish(two, [PortBinding("tcp", 80, "", (8081, 8081))])
    assert str(refused.value) == start + (
        "failed to bind host port for 0.0.0.0:8081:172.17.0.3:80/tcp: address already in use"
    )
    bound = lab.networks.publish(two, [PortBinding("tcp", 80, "", (8080, 8082))])
    assert {port.host_port for port in bound} == {8081}
    for port in bound:
        port.socket.close()


def test_user_network(lab: Lab) -> None:
    record = lab.networks.create(
        NetworkRequest(
            "web",
            ipam=(IpamConfig("10.99.1.0/29", auxiliary={"router": "10.99.1.3"}),),
            labels={"a": "b"},
        )
    )
    assert record.bridge == f"br-{record.id[:12]}"
    assert record.bridge in links()
    given = []
    for name in "abcd":
        endpoint = lab.networks.connect(new_id(), name, "web", EndpointRequest(aliases=("al",)))
        given.append(endpoint.ip_address)
    assert given == ["10.99.1.2", "10.99.1.4", "10.99.1.5", "10.99.1.6"]
    assert endpoint.dns_names == ("d", "al", endpoint.container_id[:12])
    with pytest.raises(InternalError, match="no available IPv4 addresses on this network's addr"):
        lab.networks.connect(new_id(), "e", "web", EndpointRequest())
    with pytest.raises(PermissionDenied, match="Address already in use"):
        lab.networks.connect(new_id(), "e", "web", EndpointRequest(ipv4="10.99.1.4"))
    with pytest.raises(PermissionDenied, match=r'has active endpoints .name:"a" id:"'):
        lab.networks.remove("web")
    for member in lab.networks.members(record.id):
        lab.networks.release(member.container_id)
    assert asyncio.run(lab.networks.prune()) == ["web"]
    assert record.bridge not in links()
    assert record.bridge not in table()
    with pytest.raises(NotFound, match="network web not found"):
        lab.networks.get("web")


def test_default_pools_and_overlaps(lab: Lab) -> None:
    subprocess.run(["ip", "addr", "add", "172.18.5.1/24", "dev", "docker0"], check=True)
    one = lab.networks.create(NetworkRequest("one"))
    assert one.subnet == "172.19.0.0/16"  # the host is in 172.18 itself
    assert one.ipam == (IpamConfig("172.19.0.0/16", gateway="172.19.0.1"),)
    with pytest.raises(PermissionDenied, match="Pool overlaps with other one on this address spac"):
        lab.networks.create(NetworkRequest("two", ipam=(IpamConfig("172.19.4.0/24"),)))
    with pytest.raises(PermissionDenied, match="networks have same bridge name"):
        lab.networks.create(
            NetworkRequest("two", options={"com.docker.network.bridge.name": one.bridge})
        )
    with pytest.raises(InternalError, match=r"failed to allocate gateway .10.9.0.0.: Address alr"):
        lab.networks.create(
            NetworkRequest("two", ipam=(IpamConfig("10.9.0.0/24", gateway="10.9.0.0"),))
        )
    again = lab.networks.create(NetworkRequest("two", ipam=(IpamConfig("10.9.0.0/24"),)))
    assert again.gateway == "10.9.0.1"


def test_failed_bridge_leaves_nothing(lab: Lab) -> None:
    subprocess.run(["ip", "link", "add", "taken0", "type", "veth"], check=True)
    before, rules = links(), table()
    with pytest.raises(EngineError):
        lab.networks.create(
            NetworkRequest("one", options={"com.docker.network.bridge.name": "taken0"})
        )
    assert (links(), table()) == (before, rules)
    assert lab.networks.create(NetworkRequest("one")).subnet == "172.18.0.0/16"


def test_gateway_and_second_network(lab: Lab) -> None:
    lab.networks.create(NetworkRequest("alpha"))
    lab.networks.create(NetworkRequest("inside", internal=True))
    one = new_id()
    made, bound = lab.run(one, "bridge", PortBinding("tcp", 80, "", (8080, 8080)))
    assert bound
    for name in ("inside", "alpha"):
        record = lab.networks.connect(one, "c", name, EndpointRequest())
        (plug,) = [ep for ep in lab.networks.for_shim(one) if ep.ifname == record.ifname]
        plugging.plug(made.pid, plug)
    gateway = lab.networks.gateways_of(one)[0]
    assert gateway is not None
    assert gateway.network_name == "alpha"
    assert _default_route(made).split() == ["default", "via", "172.18.0.1", "dev", "eth2", "onlink"]
    lab.networks.disconnect(one, "alpha")
    plugging.unplug_veth(plug.host_ifname)
    (first, _) = lab.networks.for_shim(one)
    assert first.gateway == "172.17.0.1"
    plugging.take_gateway(made.pid, first)
    assert "172.17.0.1 dev eth0" in _default_route(made)
    with made.listen("0.0.0.0", 80):
        assert reaches("127.0.0.1", 8080)


def _default_route(made: Machine) -> str:
    with netns.entered(made.namespace):
        command = ["ip", "route", "show", "default"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_restart_of_lifecycle(lab: Lab) -> None:
    network = lab.networks.create(NetworkRequest("web"))
    live, dead = new_id(), new_id()
    web, _ = lab.run(live, "web", PortBinding("tcp", 80, "", (8080, 8080)))
    lab.run(dead, "web", PortBinding("tcp", 80, "", (8081, 8081)))
    with web.listen("0.0.0.0", 80):
        lab.engine.close()
        subprocess.run(["ip", "link", "set", "docker0", "mtu", "1300"], check=True)
        lab.engine = lab.start(live=(live,))
        assert reaches("127.0.0.1", 8080)
    assert f"ve{'0' * 11}" not in lab.removed
    assert len(lab.removed) == 1  # the dead one's veth, whose namespace this test keeps
    assert published() == {"8080"}
    (record,) = lab.networks.members(network.id)
    assert record.container_id == live
    assert lab.networks.connect(new_id(), "n", "web", EndpointRequest()).ip_address.endswith(".0.3")
    lab.networks.connect(dead, "d", "web", EndpointRequest())
    with pytest.raises(InternalError, match=r"Bind for 0.0.0.0:8080 failed: port is already alloc"):
        lab.networks.publish(dead, [PortBinding("tcp", 80, "", (8080, 8080))])


def test_restart_of_the_machine(lab: Lab) -> None:
    network = lab.networks.create(NetworkRequest("web"))
    lab.networks.connect(new_id(), "a", "web", EndpointRequest())
    lab.engine.close()
    with own_host():
        lab.engine = lab.start()
        assert network.bridge in links()
        assert network.bridge in table()
        assert lab.networks.members(network.id) == []
        lab.networks.remove("web")
        lab.engine.close()


def test_flushed_firewall_is_repaired(lab: Lab) -> None:
    web, _ = lab.run(new_id(), "bridge", PortBinding("tcp", 80, "", (8080, 8080)))
    assert not lab.networks.repair_firewall()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert lab.networks.repair_firewall()
    assert not lab.networks.repair_firewall()
    with web.listen("0.0.0.0", 80):
        assert reaches("127.0.0.1", 8080)


def test_host_and_none(lab: Lab) -> None:
    one = new_id()
    record = lab.networks.connect(one, "c", "host", EndpointRequest())
    assert (record.ip_address, record.ifname) == ("", "")
    assert lab.networks.for_shim(one) == []
    assert lab.networks.publish(one, [PortBinding("tcp", 80, "", (8080, 8080))]) == []
    lab.networks.release(one)


def test_checks_of_a_containers_create(lab: Lab) -> None:
    lab.networks.check("nope", EndpointRequest(ipv4="1.2.3.4"))
    with pytest.raises(InvalidArgument) as refused:
        lab.networks.check("bridge", EndpointRequest(ipv4="172.17.0.9"))
    assert str(refused.value) == (
        "invalid config for network bridge: invalid endpoint settings:\n"
        "* user specified IP address is supported on user defined networks only\n"
        "* user specified IP address is supported only when connecting to networks with user "
        "configured subnets"
    )


def test_no_descriptor_is_leaked(lab: Lab) -> None:
    def cycle() -> None:
        one = new_id()
        lab.networks.connect(one, "c", "bridge", EndpointRequest())
        for port in lab.networks.publish(one, [PortBinding("udp", 53), PortBinding("tcp", 80)]):
            port.socket.close()
        lab.networks.release(one)

    cycle()
    before = descriptors()
    for _ in range(20):
        cycle()
    assert descriptors() <= before
