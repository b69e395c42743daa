"""Each test leaves the engine as it found it: what it leaves is removed, and is a failure.

On another engine (LONGSHORE_TEST_HOST), which others may be using at the same time, only things
whose names have the tests' prefix count.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import census
from tests.compose import Compose
from tests.engine import NAME_PREFIX, Engine, OwnEngine, fresh_name

Things = dict[str, set[str]]


def listing(engine: Engine, target: str) -> Any:
    answer = engine.api("GET", target)
    assert answer.status == 200, f"GET {target}: {answer.status} {answer.body!r}"
    return answer.json()


def ours(engine: Engine, names: list[str]) -> bool:
    return engine.own or any(NAME_PREFIX in name for name in names)


def things(engine: Engine) -> Things:
    found: Things = {"containers": set(), "images": set(), "networks": set(), "volumes": set()}
    for container in listing(engine, "/containers/json?all=1"):
        if ours(engine, [*container["Names"], *container["Labels"]]):
            found["containers"].add(container["Id"])
    for image in listing(engine, "/images/json"):
        tags = [tag for tag in image["RepoTags"] or [] if ours(engine, [tag])]
        found["images"].update(tags or ([image["Id"]] if engine.own else []))
    for network in listing(engine, "/networks"):
        if ours(engine, [network["Name"]]):
            found["networks"].add(network["Name"])
    for volume in listing(engine, "/volumes")["Volumes"] or []:
        # A plugin's volumes are the machine's: another engine's tests may have just made them.
        if volume["Driver"] == "local" and ours(engine, [volume["Name"]]):
            found["volumes"].add(volume["Name"])
    return found


def remove(engine: Engine, left: Things) -> None:
    for container in left["containers"]:
        engine.api("DELETE", f"/containers/{container}?force=1&v=1")
    for kind in ("images", "networks", "volumes"):
        for name in left[kind]:
            engine.api("DELETE", f"/{kind}/{name}" + ("?force=1" if kind == "images" else ""))


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, engine: Engine) -> Iterator[None]:
    before = things(engine)
    yield
    after = things(engine)
    left = {kind: after[kind] - before[kind] for kind in after}
    if any(left.values()):
        remove(engine, left)
        if not request.node.stash.get(FAILED, False):
            pytest.fail(f"left behind: { {kind: ids for kind, ids in left.items() if ids} }")


FAILED = pytest.StashKey[bool]()
LOG_START = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.failed:
        item.stash[FAILED] = True
        if isinstance(engine, OwnEngine):
            report.sections.append(("engine log", engine.log_tail(item.stash.get(LOG_START, 0))))
    return report


@pytest.fixture(autouse=True)
def note_log_position(request: pytest.FixtureRequest, engine: Engine) -> None:
    if isinstance(engine, OwnEngine) and engine.log.exists():
        request.node.stash[LOG_START] = engine.log.stat().st_size


@pytest.fixture
def own_engine(engine: Engine) -> OwnEngine:
    """The shared engine, for tests that look at its files; not for those that kill it."""
    if not isinstance(engine, OwnEngine):
        pytest.skip("looks into the engine: only for this project's own")
    return engine


@pytest.fixture(scope="module")
def mortal(make_engine: Callable[..., OwnEngine]) -> Iterator[OwnEngine]:
    """An engine that may be killed, the module's own; gone when the module is done."""
    engine = make_engine()
    engine.load_busybox()
    yield engine
    engine.destroy()


@pytest.fixture
def name(engine: Engine) -> Iterator[str]:
    """A name for the test's one container, which is removed afterwards if it exists."""
    chosen = fresh_name()
    yield chosen
    engine.api("DELETE", f"/containers/{chosen}?force=1&v=1")


@pytest.fixture
def running(engine: Engine) -> Iterator[Callable[..., str]]:
    """Starts containers by ``docker run -d`` with the given arguments; removes them afterwards."""
    started: list[str] = []

    def start(*arguments: str) -> str:
        chosen = fresh_name()
        started.append(chosen)
        engine.docker("run", "-d", "--name", chosen, *arguments)
        return chosen

    yield start
    for chosen in started:
        engine.api("DELETE", f"/containers/{chosen}?force=1&v=1")


@pytest.fixture(scope="session")
def forwarding(engine: Engine) -> Iterator[None]:
    """Networks' bridges pass where another engine's firewall drops what is forwarded."""
    undo = census.accept_forwarding("br-*") if engine.own else []
    yield
    for command in undo:
        census.nft(command)


@pytest.fixture
def compose(engine: Engine, tmp_path: Path, forwarding: None) -> Iterator[Callable[[str], Compose]]:
    """Compose on a copy of a stack's files; afterwards nothing of it is there."""
    stacks: list[Compose] = []

    def make(stack: str) -> Compose:
        stacks.append(Compose(engine, stack, tmp_path))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack("--profile", "*", "down", "-v", "--remove-orphans", "-t", "0")
