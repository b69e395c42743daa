"""The DNS server inside containers: names of containers, and everybody else's."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import namefiles
from tests import polling
from tests.engine import BUSYBOX, fresh_name
from tests.network_host import (
    AAAA,
    PEER,
    PTR,
    LabEngine,
    addresses_answer,
    dns_server,
    lab,
    lookup,
)

Runner = Callable[..., str]
NXDOMAIN, SERVFAIL = 3, 2


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def net(engine: LabEngine) -> Iterator[str]:
    with engine.made_network() as name:
        yield name


@pytest.fixture
def sleeper(engine: LabEngine, net: str, running: Runner) -> Runner:
    def start(*arguments: str) -> str:
        # What is nobody's name is refused at once: the host's own server may be out of reach.
        servers = () if "--dns" in arguments else ("--dns", PEER)
        return running("--network", net, *servers, *arguments, BUSYBOX, "sleep", "100")

    return start


def test_every_name_of_a_container(engine: LabEngine, net: str, sleeper: Runner) -> None:
    one, other = sleeper(), sleeper("--network-alias", "web.site", "--network-alias", "Odd Name")
    found = engine.network(other, net)
    short = engine.inspect(other)["Id"][:12]
    assert found["DNSNames"] == [other, "web.site", "Odd Name", short]
    with engine.inside(one):
        for name in (other, other.upper(), short, "web.site", "odd name", f"{other}.{net}"):
            assert lookup(name) == (0, [found["IPAddress"]]), name
            assert lookup(name, tcp=True) == (0, [found["IPAddress"]]), name
        assert lookup(other, AAAA) == (0, [])
        reverse = ".".join(reversed(found["IPAddress"].split(".")))
        assert lookup(f"{reverse}.in-addr.arpa", PTR) == (0, [f"{other}.{net}"])


def test_a_service_has_all_addresses_in_changing_order(
    engine: LabEngine, net: str, sleeper: Runner
) -> None:
    members = [sleeper("--network-alias", "service") for _ in range(3)]
    addresses = {engine.network(member, net)["IPAddress"] for member in members}
    with engine.inside(members[0]):
        answers = [tuple(lookup("service")[1]) for _ in range(40)]
    assert all(set(answer) == addresses for answer in answers)
    assert len({answer[0] for answer in answers}) == 3
    engine.docker("rm", "-f", members[2])
    with engine.inside(members[0]):
        assert len(lookup("service")[1]) == 2


def test_a_rename_holds_at_once(engine: LabEngine, net: str, sleeper: Runner) -> None:
    one, other = sleeper(), sleeper()
    address = engine.network(other, net)["IPAddress"]
    new = fresh_name()
    engine.docker("rename", other, new)
    try:
        with engine.inside(one):
            assert lookup(new) == (0, [address])
            assert lookup(other)[1] == []
        assert engine.network(new, net)["DNSNames"][0] == new
    finally:
        engine.docker("rename", new, other)


def test_remembered_answers_end_with_a_change(engine: LabEngine, net: str, sleeper: Runner) -> None:
    one, other = sleeper(), sleeper()
    address = engine.network(other, net)["IPAddress"]
    names = str(engine.exec_root / "names" / engine.network(one, net)["NetworkID"])

    def ask_again_and_again() -> None:
        polling.until(lambda: namefiles.are_settled([namefiles.version(names)]), "no change")
        with engine.inside(one):
            for _ in range(3):
                assert lookup(other) == (0, [address])
                assert lookup(other, AAAA) == (0, [])

    ask_again_and_again()
    third = sleeper("--network-alias", other)
    with engine.inside(one):
        assert set(lookup(other)[1]) == {address, engine.network(third, net)["IPAddress"]}
    engine.docker("rm", "-f", third)
    ask_again_and_again()
    engine.docker("network", "disconnect", net, other)
    with engine.inside(one):
        assert lookup(other)[1] == []
    engine.docker("network", "connect", net, other)
    ask_again_and_again()


def test_links(engine: LabEngine, net: str, sleeper: Runner) -> None:
    other = sleeper()
    linked = sleeper("--link", f"{other}:database")
    with engine.inside(linked):
        assert lookup("database") == (0, [engine.network(other, net)["IPAddress"]])
    with engine.inside(other):
        assert lookup("database")[1] == []


def test_answers_while_the_engine_is_stopped(engine: LabEngine, net: str, sleeper: Runner) -> None:
    one, other = sleeper(), sleeper()
    assert engine.process is not None
    address = engine.network(other, net)["IPAddress"]
    pids = [engine.process.pid, engine.lifecycle_pid()]
    with engine.inside(one):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert lookup(other) == (0, [address])
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    with engine.inside(one):
        engine.kill_lifecycle()
        assert lookup(other) == (0, [address])
    polling.until(engine.is_up, "the engine to be back", timeout=20)
    with engine.inside(one):
        assert lookup(other) == (0, [address])


def test_names_are_a_networks_own(engine: LabEngine, running: Runner, sleeper: Runner) -> None:
    one = sleeper()
    stranger = running(BUSYBOX, "sleep", "100")
    with engine.inside(one):
        assert lookup(stranger)[1] == []
    assert "127.0.0.11" not in engine.docker("exec", stranger, "cat", "/etc/resolv.conf").stdout


def test_forwards_to_a_server_and_is_not_stalled_by_a_dead_one(
    engine: LabEngine, sleeper: Runner
) -> None:
    one = sleeper("--dns", "198.51.100.77", "--dns", PEER)

    def answer(query: bytes) -> bytes:
        return addresses_answer(query, "192.0.2.9")

    with dns_server(engine.peer, answer), engine.inside(one):
        assert lookup("example.test") == (0, ["192.0.2.9"])
        assert lookup("example.test", tcp=True) == (0, ["192.0.2.9"])


def test_large_answers_come_by_tcp(engine: LabEngine, sleeper: Runner) -> None:
    many = [f"10.1.{number // 256}.{number % 256}" for number in range(200)]

    def answer(query: bytes) -> bytes:
        return addresses_answer(query, *many)

    one = sleeper("--dns", PEER)
    with dns_server(engine.peer, answer), engine.inside(one):
        assert lookup("large.test", tcp=True) == (0, many)


def test_failures_are_told(engine: LabEngine, sleeper: Runner) -> None:
    one = sleeper("--dns", PEER)

    def nothing(query: bytes) -> bytes:
        return query[:2] + struct.pack(">HHHHH", 0x8183, 1, 0, 0, 0) + query[12:]

    with dns_server(engine.peer, nothing), engine.inside(one):
        assert lookup("missing.test") == (NXDOMAIN, [])
    with engine.inside(one):
        assert lookup("nobody-listens.test") == (SERVFAIL, [])


def test_a_resolver_that_is_its_own_server_is_no_loop(engine: LabEngine, sleeper: Runner) -> None:
    one = sleeper("--dns", "127.0.0.11")
    shim = engine.shim_pid(one)

    def seconds() -> float:
        return sum(
            int(field) for field in Path(f"/proc/{shim}/stat").read_text().split()[13:15]
        ) / os.sysconf("SC_CLK_TCK")

    before = seconds()
    with engine.inside(one):
        assert lookup("nobody-knows.test") == (SERVFAIL, [])
        assert lookup(one)[0] == 0
    assert seconds() - before < 1


def test_an_internal_network_forwards_nothing(engine: LabEngine, running: Runner) -> None:
    name = fresh_name()
    engine.docker("network", "create", "--internal", name)
    asked: list[bytes] = []

    def note(query: bytes) -> None:
        asked.append(query)

    try:
        one = running("--network", name, "--dns", PEER, BUSYBOX, "sleep", "100")
        with dns_server(engine.peer, note), engine.inside(one):
            assert lookup(one)[0] == 0
            assert lookup("example.test") == (SERVFAIL, [])
        assert asked == []
        engine.docker("rm", "-f", one)
    finally:
        engine.docker("network", "rm", name)


def test_port_53_is_the_containers_own(engine: LabEngine, sleeper: Runner) -> None:
    one = sleeper()
    with (
        engine.inside(one),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        for own in (streams, datagrams):
            own.bind(("0.0.0.0", 53))
        streams.listen()
        assert lookup(one)[0] == 0
        assert lookup(one, tcp=True)[0] == 0
