"""Throughput: many short containers from several clients, over plain HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.endpoint import IMAGE
from bench.job import Figures, Job, milliseconds

CONTAINERS = 40
CLIENTS = 8


class Churn(Job):
    name = "churn"
    what = f"{CONTAINERS} x create, start, wait, remove by {CLIENTS} clients"
    samples = 1
    target = 0.2

    def measure(self) -> Figures:
        turns = iter(range(CONTAINERS))
        with ThreadPoolExecutor(CLIENTS) as pool:
            taken = milliseconds(
                lambda: [
                    f.result() for f in [pool.submit(self._client, turns) for _ in range(CLIENTS)]
                ]
            )
        listed = self.endpoint.call("GET", "/containers/json?all=1").json()
        if any(container["Image"] == IMAGE for container in listed):
            raise RuntimeError("a remove was answered while the container was still listed")
        return {"": taken}

    def _client(self, turns: Iterator[int]) -> None:
        body = {"Image": IMAGE, "Cmd": ["true"]}
        with self.endpoint.keep_alive() as call:
            # A step of a shared range iterator is atomic: no two clients get the same turn.
            for _ in turns:
                container = call("POST", "/containers/create", body)["Id"]
                call("POST", f"/containers/{container}/start")
                code = call("POST", f"/containers/{container}/wait")["StatusCode"]
                call("DELETE", f"/containers/{container}")
                if code:
                    raise RuntimeError(f"exit code {code}")
