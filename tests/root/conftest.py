"""Fixtures of the tests with root: containers made by the runtime's library and its command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import cgroups
from tests.root.runtime_lab import CGROUP_PARENT, Box, Command, Driver


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    instance = Driver()
    yield instance
    instance.close()
    for directory in dict.fromkeys(cgroups.manager(CGROUP_PARENT).paths.values()):
        if os.path.isdir(directory):
            os.rmdir(directory)


@pytest.fixture
def box(tmp_path: Path, driver: Driver) -> Iterator[Box]:
    instance = Box(tmp_path, driver)
    yield instance
    instance.close()


@pytest.fixture
def command(box: Box) -> Command:
    return Command(box)
