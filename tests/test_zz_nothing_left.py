"""The end of the suite: after many containers, and after the engine's end, nothing is left."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import polling
from tests.census import Census, assert_nothing_left, processes
from tests.conftest import FOREIGN
from tests.engine import BUSYBOX, OwnEngine

pytestmark = pytest.mark.skipif(bool(FOREIGN), reason="looks at the engine's files and processes")
CONTAINERS = 200
CLIENTS = 8

# What one container after the other is: body, and whether its start must fail.
KINDS: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"Cmd": ["true"]}, False),
    ({"Cmd": ["sh", "-c", "echo x; exit 3"], "HostConfig": {"NetworkMode": "none"}}, False),
    ({"Cmd": ["nope"]}, True),
    ({"Cmd": ["true"], "User": "nouser"}, True),
    (
        {
            "Cmd": ["sleep", "100"],
            "HostConfig": {"PublishAllPorts": True},
            "ExposedPorts": {"80/tcp": {}},
        },
        False,
    ),
    ({"Cmd": ["true"], "HostConfig": {"NetworkMode": "nopenet"}}, True),
    ({"Cmd": ["sleep", "100"], "Volumes": {"/data": {}}, "Tty": True}, False),
    ({"Cmd": ["true"], "HostConfig": {"Binds": ["/proc/self/nope/x:/data"]}}, True),
)


def live(engine: OwnEngine, number: int) -> None:
    body, fails = KINDS[number % len(KINDS)]
    created = engine.api("POST", "/containers/create", {"Image": BUSYBOX, **body})
    if created.status != 201:
        assert fails, created.body
        return
    container = created.json()["Id"]
    started = engine.api("POST", f"/containers/{container}/start")
    assert (started.status != 204) == fails, started.body
    if "sleep" in body["Cmd"]:
        exec_id = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["true"]}).json()[
            "Id"
        ]
        engine.api("POST", f"/exec/{exec_id}/start", {"Detach": True})
    elif not fails:
        assert engine.api("POST", f"/containers/{container}/wait").status == 200
    removed = engine.api("DELETE", f"/containers/{container}?force=1&v=1")
    assert removed.status == 204, removed.body


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.timeout(180)
def test_200_containers_leave_nothing(engine: OwnEngine) -> None:
    roots = (engine.exec_root, engine.data_root)
    for number in range(len(KINDS)):
        live(engine, number)
    assert engine.process
    # The engine makes spares a moment after the last use: they are there now, and at the end.
    spares = Counter(
        f"longshore-{name} {engine.exec_root}"
        for name in ("spare", "init", "spare-job", "spare-job")
    )
    polling.until(lambda: spares <= Counter(p.title for p in processes()), "the spares")
    daemons = [engine.process.pid, engine.lifecycle_pid(), engine.zygote_pid()]
    before = Census.take(roots)
    open_before = [descriptors(pid) for pid in daemons]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(live, itertools.repeat(engine), range(CONTAINERS)))
    assert engine.api("GET", "/containers/json?all=1").json() == []
    assert_nothing_left(before, roots)
    # Some for connections and calls that are just closing, none for each container.
    for pid, count in zip(daemons, open_before, strict=True):
        polling.until(lambda: descriptors(pid) < count + 20, f"{pid} to close what it opened")  # noqa: B023


@pytest.mark.timeout(120)
def test_suite_leaves_nothing(engine: OwnEngine, census_at_start: Census) -> None:
    roots = (engine.exec_root, engine.data_root)
    containers = engine.api("GET", "/containers/json?all=1").json()
    assert containers == [], json.dumps(containers)
    engine.destroy()
    assert_nothing_left(census_at_start, roots)
