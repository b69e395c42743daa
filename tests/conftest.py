"""Order of the test sets, the root rule, and the engines, images and registry that tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import census
from tests.census import Census
from tests.engine import BUSYBOX, Engine, OwnEngine
from tests.registry import Registry

HERE = Path(__file__).parent
FOREIGN = os.environ.get("LONGSHORE_TEST_HOST")
# What fails fast comes first; the look at what was left comes last.
ORDER = ("test_linters.py", "unit", "root", "compat", "test_zz_nothing_left.py")
AS_ROOT = ("root", "compat", "test_zz_nothing_left.py")
START = pytest.StashKey[Census]()


def area(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() == 0:
        session.config.stash[START] = Census.take()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(area(item)) if area(item) in ORDER else 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if area(item) in AS_ROOT and os.geteuid() != 0:
        pytest.fail(
            "this test needs root: run ./test as root, or name the sets to run: ./test tests/unit",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def census_at_start(pytestconfig: pytest.Config) -> Census:
    return pytestconfig.stash[START]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    instance = Registry(tmp_path_factory.mktemp("registry"))
    instance.start()
    yield instance
    instance.stop()


@pytest.fixture(scope="session")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., OwnEngine]]:
    """Starts further engines of this project; who asks for one destroys it (``destroy``)."""
    made: list[OwnEngine] = []

    def make(*flags: str) -> OwnEngine:
        engine = OwnEngine(tmp_path_factory.mktemp("engines", numbered=True), flags)
        made.append(engine)
        engine.start()
        return engine

    yield make
    for engine in reversed(made):
        engine.destroy()


@pytest.fixture(scope="session")
def engine(
    registry: Registry,
    make_engine: Callable[..., OwnEngine],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    """The engine under test: of this checkout, or the one that LONGSHORE_TEST_HOST names."""
    if FOREIGN:
        instance = Engine(Path(FOREIGN.removeprefix("unix://")), tmp_path_factory.mktemp("foreign"))
        assert instance.responds(), f"nothing answers on {FOREIGN}"
    else:
        instance = own = make_engine("--registry-mirror", f"http://{registry.address}")
        own.firewall_undo = census.accept_forwarding(own.bridge)
    instance.load_busybox()
    yield instance
    if FOREIGN:
        instance.api("DELETE", f"/images/{BUSYBOX}")
    instance.close()
