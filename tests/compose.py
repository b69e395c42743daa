"""Test support: Compose v2, run as its users run it on the files of one stack."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.archives import TOOLS
from tests.engine import Client, Engine, fresh_name

STACKS = Path(__file__).parent / "compat" / "stacks"
# Never PATH's docker-compose: before Debian 13 that is version 1, another program.
COMPOSE = TOOLS / "usr/libexec/docker/cli-plugins/docker-compose"


class Compose:
    def __init__(self, engine: Engine, stack: str, scratch: Path) -> None:
        self.engine = engine
        self.project = fresh_name()
        self.directory = scratch / self.project
        shutil.copytree(STACKS / stack, self.directory)
        self.env = {**engine.env, "COMPOSE_PROJECT_NAME": self.project, "COMPOSE_ANSI": "never"}

    def __call__(
        self,
        *arguments: str,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMPOSE, *arguments],
            cwd=self.directory,
            env={**self.env, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            command = f"docker compose {' '.join(arguments)}"
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def spawn(self, *arguments: str) -> Client[str]:
        return Client(
            [COMPOSE, *arguments],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def services(self, *arguments: str) -> list[str]:
        """The service of each container that is up; with ``-a`` of each."""
        return sorted(self("ps", *arguments, "--format", "{{.Service}}").stdout.split())

    def inspect(self, service: str, number: int = 1) -> Any:
        return self.engine.inspect(f"{self.project}-{service}-{number}")

    def logs(self, service: str) -> str:
        return self("logs", "--no-log-prefix", service).stdout

    def sh(self, service: str, script: str, *, check: bool = True) -> str:
        return self("exec", "-T", service, "sh", "-c", script, check=check).stdout

    def config(self) -> Any:
        return json.loads(self("config", "--format", "json").stdout)
