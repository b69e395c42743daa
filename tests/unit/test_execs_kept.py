"""How long lifecycle keeps execs: they must not pile up in a container that runs for months."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from common.revisions import Row
from lifecycle import execs
from lifecycle._pb import containers_pb2 as pb
from lifecycle.container import Container
from lifecycle.engine import Engine
from lifecycle.execs import Exec
from shim.protocol import ShimError


async def test_one_that_could_not_be_started_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "KEPT_SECONDS", 0.0)
    container = Container(pb.Container(id="c"), Row.unseen())
    request = pb.CreateExecRequest(cmd=["nosuch"])
    container.execs["e"] = Exec("e", container, request, cast("Engine", None), was_started=True)
    error = ShimError({"message": 'exec: "nosuch": executable file not found in $PATH'})
    assert "executable file not found" in execs.failed(container.execs["e"], error)
    assert container.execs["e"].describe().exit_code == execs.NOT_FOUND
    await asyncio.sleep(0.01)  # timers run in the order of their times
    assert not container.execs
