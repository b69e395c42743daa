"""Test support: do the kernel, the records, the names and ``inspect`` say the same of networks?

``disagreements`` looks at everything that an engine in a lab (network_host.py) has of networks, and
takes what ``inspect`` says of its containers as the measure. Nothing of the engine's own
book-keeping is used to read the other sides.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import netns
from tests import census
from tests.network_host import AAAA, PTR, A, LabEngine, lookup

LISTENING, UNCONNECTED = "0A", "07"  # states in /proc/net/tcp and udp
ANY = ("0.0.0.0", "::")
Facts = set[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Member:
    """One running container on one network."""

    container: Any  # as inspect says
    network: Any
    settings: Any  # NetworkSettings.Networks[...] of the container

    @property
    def addresses(self) -> list[str]:
        return [a for a in (self.settings["IPAddress"], self.settings["GlobalIPv6Address"]) if a]

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.settings["DNSNames"] or ()]


@dataclass(frozen=True, slots=True)
class View:
    """What the API says."""

    containers: list[Any]
    networks: list[Any]
    members: list[Member]

    @classmethod
    def take(cls, engine: LabEngine) -> View:
        listed = engine.api("GET", "/containers/json?all=1").json()
        containers = [engine.inspect(one["Id"]) for one in listed]
        networks = [
            engine.api("GET", f"/networks/{one['Id']}").json()
            for one in engine.api("GET", "/networks").json()
            if one["Driver"] == "bridge"
        ]
        by_id = {network["Id"]: network for network in networks}
        members = [
            Member(container, by_id[settings["NetworkID"]], settings)
            for container in containers
            if container["State"]["Running"]
            for settings in container["NetworkSettings"]["Networks"].values()
        ]
        return cls(containers, networks, members)

    @property
    def running(self) -> list[Any]:
        return [one for one in self.containers if one["State"]["Running"]]

    def of_network(self, network: Any) -> list[Member]:
        return [member for member in self.members if member.network["Id"] == network["Id"]]

    def ports(self) -> Iterator[tuple[Any, str, int, str, int]]:
        """Container, protocol, container's port, address and port of the host."""
        for one in self.running:
            for name, bound in (one["NetworkSettings"]["Ports"] or {}).items():
                number, _, proto = name.partition("/")
                for host in bound or ():
                    yield one, proto, int(number), host["HostIp"], int(host["HostPort"])


def disagreements(engine: LabEngine) -> list[str]:
    """One line for each thing that some side has and another has not; empty: all agree."""
    view = View.take(engine)
    found: list[str] = []

    def compare(what: str, there: Iterable[Any], wanted: Iterable[Any]) -> None:
        has, wants = set(there), set(wanted)
        found.extend(f"{what}: {one} is there and should not" for one in sorted(has - wants))
        found.extend(f"{what}: {one} is missing" for one in sorted(wants - has))

    given = [address for member in view.members for address in member.addresses]
    compare("address given twice", {a for a in given if given.count(a) > 1}, ())
    compare("shim", _shims(engine), (one["Id"][:12] for one in view.running))
    compare("link", _host_links(engine), _wanted_links(engine, view))
    compare("listening socket", _sockets(engine), _wanted_sockets(view))
    compare("record", _records(engine), _wanted_records(view))
    for one in view.containers:
        settings = one["NetworkSettings"]["Networks"].values()
        if one["State"]["Running"]:
            compare(f"inside {one['Name']}", _inside(engine, one), _wanted_inside(settings))
        else:
            kept = {s["IPAddress"] + s["GlobalIPv6Address"] for s in settings} - {""}
            compare(f"stopped {one['Name']}", kept, ())
    for network in view.networks:
        members = view.of_network(network)
        compare(f"network {network['Name']}", _listed(network), _wanted_members(members))
    compare("name", _names(engine), _wanted_names(view))
    compare("firewall", _firewall(engine), _wanted_firewall(engine, view))
    found += _lookups(engine, view)
    return found


def _shims(engine: LabEngine) -> Iterator[str]:
    for process in census.processes():
        words = process.title.split()
        if words[:1] == ["longshore-shim"] and words[-1] == str(engine.exec_root):
            yield words[1]


def _ip(engine: LabEngine, pid: int, *arguments: str) -> Any:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _host_links(engine: LabEngine) -> Facts:
    links = _ip(engine, engine.machine.pid, "link")
    return {
        (link["ifname"], link.get("master", ""))
        for link in links
        if link["ifname"] not in ("lo", "lan0")
    }


def _bridge(engine: LabEngine, network: Any) -> str:
    return engine.bridge if network["Name"] == "bridge" else f"br-{network['Id'][:12]}"


def _wanted_links(engine: LabEngine, view: View) -> Facts:
    veths = {
        (f"ve{member.settings['EndpointID'][:11]}", _bridge(engine, member.network))
        for member in view.members
    }
    return veths | {(_bridge(engine, network), "") for network in view.networks}


def _sockets(engine: LabEngine) -> Facts:
    """What is bound on the host, as protocol, family and port."""
    found: Facts = set()
    for file, state in (
        ("tcp", LISTENING),
        ("tcp6", LISTENING),
        ("udp", UNCONNECTED),
        ("udp6", UNCONNECTED),
    ):
        lines = Path(f"/proc/{engine.machine.pid}/net/{file}").read_text().splitlines()[1:]
        for line in lines:
            words = line.split()
            if words[3] == state:
                port = int(words[1].rpartition(":")[2], 16)
                found.add((file[:3], "6" if file.endswith("6") else "4", str(port)))
    return found


def _wanted_sockets(view: View) -> Facts:
    return {
        (proto, "6" if ":" in host_ip else "4", str(host_port))
        for _, proto, _, host_ip, host_port in view.ports()
    }


def _records(engine: LabEngine) -> Facts:
    uri = f"file:{engine.data_root / 'meta.db'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=5)) as database:
        endpoints = database.execute(
            "SELECT id, network_id, container_id FROM endpoints"
        ).fetchall()
        ports = database.execute("SELECT container_id, data FROM published_ports").fetchall()
    published = {
        (container, port["proto"], port["host_ip"], str(port["host_port"]))
        for container, data in ports
        for port in json.loads(data)
    }
    return {tuple(row) for row in endpoints} | published


def _wanted_records(view: View) -> Facts:
    endpoints = {
        (member.settings["EndpointID"], member.network["Id"], member.container["Id"])
        for member in view.members
    }
    published = {
        (container["Id"], proto, host_ip, str(host_port))
        for container, proto, _, host_ip, host_port in view.ports()
    }
    return endpoints | published


def _inside(engine: LabEngine, container: Any) -> Facts:
    return {
        (link["address"], f"{address['local']}/{address['prefixlen']}")
        for link in _ip(engine, container["State"]["Pid"], "addr")
        if link["ifname"] != "lo"
        for address in link["addr_info"]
        if address["scope"] != "link"
    }


def _wanted_inside(settings: Iterable[Any]) -> Facts:
    return {
        (one["MacAddress"], f"{one[address]}/{one[length]}")
        for one in settings
        for address, length in (
            ("IPAddress", "IPPrefixLen"),
            ("GlobalIPv6Address", "GlobalIPv6PrefixLen"),
        )
        if one[address]
    }


def _listed(network: Any) -> Facts:
    return {
        (key, one["EndpointID"], one["IPv4Address"], one["IPv6Address"], f"/{one['Name']}")
        for key, one in network["Containers"].items()
    }


def _wanted_members(members: Sequence[Member]) -> Facts:
    return {
        (
            member.container["Id"],
            member.settings["EndpointID"],
            *(
                f"{member.settings[address]}/{member.settings[length]}"
                if member.settings[address]
                else ""
                for address, length in (
                    ("IPAddress", "IPPrefixLen"),
                    ("GlobalIPv6Address", "GlobalIPv6PrefixLen"),
                )
            ),
            member.container["Name"],
        )
        for member in members
    }


def _names(engine: LabEngine) -> Facts:
    """Of the files below names/: network, name and one of its lines each."""
    return {
        (path.parent.name, path.name, line)
        for path in (engine.exec_root / "names").glob("*/*")
        for line in path.read_text().split()
    }


def _wanted_names(view: View) -> Facts:
    found: Facts = set()
    for member in view.members:
        if member.network["Name"] == "bridge":
            continue
        where = member.network["Id"]
        for address in member.addresses:
            found |= {(where, name.lower(), address) for name in member.names}
            found.add((where, f"ptr:{address}", member.container["Name"].removeprefix("/")))
    return found


def _firewall(engine: LabEngine) -> Facts:
    """Maps of ports as map, key and target; of the sets the comments alone: whose they are."""
    with netns.entered(engine.machine.namespace):
        listed = census.nft("list ruleset")
    found: set[tuple[str, ...]] = set()
    for entry in listed:
        for element in entry.get("map", {}).get("elem", ()):
            key, value = element
            found.add((entry["map"]["name"], *_parts(key), *_parts(value)))
        for element in entry.get("set", {}).get("elem", ()):
            found.add(("set", entry["set"]["name"], element["elem"]["comment"]))
    return found


def _parts(value: Any) -> list[str]:
    """``value`` of nft's JSON: a concatenation, with or without a comment."""
    plain = value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value
    parts = plain["concat"] if isinstance(plain, dict) else [plain]
    return [str(part) for part in parts]


def _wanted_firewall(engine: LabEngine, view: View) -> Facts:
    found: set[tuple[str, ...]] = set()
    for network in view.networks:
        for name in ("bridges", "pairs", "icc", "masqueraded"):
            found.add(("set", name, network["Id"]))
        for config in network["IPAM"]["Config"]:
            version = 6 if ":" in config["Subnet"] else 4
            found |= {("set", f"{n}{version}", network["Id"]) for n in ("subnets", "reach", "own")}
    for container, proto, number, host_ip, host_port in view.ports():
        version = 6 if ":" in host_ip else 4
        target = _target(view, container, version)
        if target:
            at = () if host_ip in ANY else (host_ip,)
            name = f"ports{version}{'_at' if at else ''}"
            found.add((name, *at, proto, str(host_port), target, str(number)))
    return found


def _target(view: View, container: Any, version: int) -> str:
    """The container's address on the network whose gateway is its default one."""
    key, gateway = (
        ("GlobalIPv6Address", "IPv6Gateway") if version == 6 else ("IPAddress", "Gateway")
    )
    candidates = [
        (-member.settings["GwPriority"], member.network["Name"], member.settings[key])
        for member in view.members
        if member.container["Id"] == container["Id"] and member.settings[gateway]
    ]
    return str(min(candidates)[2]) if candidates else ""


def _lookups(engine: LabEngine, view: View) -> list[str]:
    """Every member of a network asks for every name on it."""
    wrong = []
    for member in view.members:
        if member.network["Name"] == "bridge":
            continue
        members = view.of_network(member.network)
        with engine.inside(member.container["Id"]):
            for name in {name for one in members for name in one.names}:
                holders = [one for one in members if name in one.names]
                for kind in (A, AAAA):
                    wanted = {
                        address
                        for one in holders
                        for address in one.addresses
                        if (":" in address) == (kind == AAAA)
                    }
                    wrong += _lookup(member, name, kind, wanted)
            for one in members:
                pointer = ".".join(reversed(one.settings["IPAddress"].split("."))) + ".in-addr.arpa"
                own = f"{one.container['Name'][1:]}.{member.network['Name']}"
                wrong += _lookup(member, pointer, PTR, {own})
    return wrong


def _lookup(member: Member, name: str, kind: int, wanted: set[str]) -> list[str]:
    try:
        code, records = lookup(name, kind)
    except OSError as error:
        return [f"lookup of {name} in {member.container['Name']}: {error}"]
    # A name on several of the container's networks is answered from the first that has it.
    networks = len(member.container["NetworkSettings"]["Networks"])
    if code == 0 and (set(records) == wanted or networks > 1):
        return []
    return [f"lookup of {name} in {member.container['Name']}: {code} {records}, not {wanted}"]
