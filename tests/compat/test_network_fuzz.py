"""kill -9 of lifecycle, and of all daemons, amid random changes to containers' networks.

LONGSHORE_FUZZ_OPERATIONS (15) says how many changes, LONGSHORE_FUZZ_SEED which. They come in
batches of two to four at once with one kill each at a random moment; after each kill everything
that there is of networks has to agree, and what a client was told is done has to be done.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests import census, polling
from tests.engine import BUSYBOX, fresh_name
from tests.network_agreement import View, disagreements
from tests.network_host import LabEngine, lab

OPERATIONS = int(os.environ.get("LONGSHORE_FUZZ_OPERATIONS", "15"))
SEED = int(os.environ.get("LONGSHORE_FUZZ_SEED", "5"))
AT_ONCE = 4
LATEST_KILL = 0.08  # seconds after the first request; a start takes about half of it

PORTS = (
    ("80",),
    ("8080:80", "8080:80/udp"),
    ("127.0.0.1:8081:80", "8082-8084:82-84"),
    (),
    ("53/udp",),
)

Body = dict[str, Any] | None


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabEngine]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Operation:
    verb: str
    container: str  # id
    argument: str = ""  # a network's or a new name

    @classmethod
    def choose(cls, choose: random.Random, containers: list[str], networks: list[str]) -> Operation:
        verb = choose.choice(
            ("connect", "disconnect", "start", "stop", "restart", "kill", "rename")
        )
        argument = ""
        if verb in ("connect", "disconnect"):
            argument = choose.choice(networks)
        elif verb == "rename":
            argument = fresh_name()
        return cls(verb, choose.choice(containers), argument)

    def do(self, engine: LabEngine) -> int:
        """The status of the answer; 0 where the connection broke."""
        body: Body = None
        target = f"/containers/{self.container}/{self.verb}"
        if self.verb in ("connect", "disconnect"):
            target = f"/networks/{self.argument}/{self.verb}"
            body = {"Container": self.container}
            if self.verb == "connect" and self.argument != "bridge":
                body["EndpointConfig"] = {"Aliases": ["shared"]}
        elif self.verb == "rename":
            target += f"?name={self.argument}"
        elif self.verb in ("stop", "restart"):
            target += "?t=0"
        try:
            return engine.api("POST", target, body).status
        except (OSError, EOFError):
            return 0

    def holds(self, container: Any) -> bool:
        is_connected = self.argument in container["NetworkSettings"]["Networks"]
        is_running = bool(container["State"]["Running"])
        match self.verb:
            case "connect":
                return is_connected
            case "disconnect":
                return not is_connected
            case "rename":
                return bool(container["Name"] == f"/{self.argument}")
            case "stop" | "kill":
                return not is_running
        return is_running


@pytest.fixture
def networks(engine: LabEngine) -> Iterator[list[str]]:
    made = [fresh_name() for _ in range(3)]
    for name, options in zip(made, ((), ("--ipv6",), ("--ipv6",)), strict=True):
        engine.docker("network", "create", *options, name)
    yield made
    for name in made:
        engine.api("DELETE", f"/networks/{name}")


@pytest.fixture
def containers(engine: LabEngine, networks: list[str]) -> Iterator[list[str]]:
    """Ids of containers with ports of each kind; some run."""
    made: list[str] = []
    for number, ports in enumerate(PORTS):
        where = networks[number % len(networks)]
        arguments = [word for port in ports for word in ("-p", port)]
        arguments += ["--network", where, "--network-alias", "shared", BUSYBOX, "sleep", "1000"]
        verb = ("run", "-d") if number % 2 == 0 else ("create",)
        made.append(engine.docker(*verb, *arguments).stdout.strip())
    yield made
    for one in made:
        engine.api("DELETE", f"/containers/{one}?force=1&v=1")


def kill(engine: LabEngine, delay: float, *, daemons: bool) -> Callable[[], None]:
    """What kills ``delay`` seconds after its call; the victims are found beforehand."""
    victims = [int((engine.exec_root / "lifecycle.pid").read_text())]
    victims += [engine.zygote_pid()] if daemons else []

    def now() -> None:
        threading.Event().wait(delay)
        if daemons:
            engine.kill_api()
        for pid in victims:
            census.kill(pid)
        if daemons:
            engine.start()

    return now


def agree(engine: LabEngine, after: object) -> None:
    found: list[str] = []

    def look() -> bool:
        try:
            found[:] = disagreements(engine)
        except (OSError, subprocess.CalledProcessError) as error:
            # A container that a killed lifecycle had told to end, and which has ended meanwhile.
            found[:] = [f"something went away: {error}"]
        return not found

    polling.until(look, f"all to agree after {after}", timeout=30, explain=lambda: "\n".join(found))


@pytest.mark.timeout(60 + 10 * OPERATIONS)
def test_kills_leave_nothing_behind(
    engine: LabEngine, networks: list[str], containers: list[str]
) -> None:
    choose = random.Random(SEED)
    done = kills = 0
    while done < OPERATIONS:
        batch = [
            Operation.choose(choose, containers, [*networks, "bridge"])
            for _ in range(min(choose.randint(2, AT_ONCE), OPERATIONS - done))
        ]
        done, kills = done + len(batch), kills + 1
        # longshored gives up on a lifecycle that dies five times at once.
        strike = kill(engine, choose.uniform(0, LATEST_KILL), daemons=kills % 4 == 0)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = [pool.submit(operation.do, engine) for operation in batch]
            strike()
            results = [(one, answer.result()) for one, answer in zip(batch, answers, strict=True)]
        polling.until(engine.is_up, "the engine to be back", timeout=20)
        agree(engine, results)
        for operation, status in results:
            alone = [one.container for one in batch].count(operation.container) == 1
            if alone and 200 <= status < 400:
                assert operation.holds(engine.inspect(operation.container)), results
    check_pools(engine, networks)
    for one in containers:
        engine.api("DELETE", f"/containers/{one}?force=1")
    agree(engine, "the removal of all")
    assert not View.take(engine).containers


def check_pools(engine: LabEngine, networks: list[str]) -> None:
    """What is free again is given again: the lowest address that nobody has."""
    for network in networks:
        found = engine.api("GET", f"/networks/{network}").json()
        taken = {one["IPv4Address"].partition("/")[0] for one in found["Containers"].values()}
        prefix = found["IPAM"]["Config"][0]["Subnet"].partition("/")[0].rpartition(".")[0]
        lowest = next(n for n in range(2, 255) if f"{prefix}.{n}" not in taken)
        container = engine.docker("run", "-d", "--network", network, BUSYBOX, "sleep", "99").stdout
        given = engine.network(container.strip(), network)["IPAddress"]
        engine.api("DELETE", f"/containers/{container.strip()}?force=1")
        assert given == f"{prefix}.{lowest}", f"{sorted(taken)} are taken"
