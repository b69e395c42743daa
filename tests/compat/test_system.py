"""``docker version`` and ``docker info``."""

from __future__ import annotations

import os
import platform

from tests.engine import Engine


def test_version(engine: Engine) -> None:
    found = engine.api("GET", "/version").json()
    assert (found["ApiVersion"], found["MinAPIVersion"]) == ("1.51", "1.24")
    assert (found["Os"], found["KernelVersion"]) == ("linux", platform.release())
    assert found["Arch"] == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert "Name" in found["Platform"]
    component = found["Components"][0]
    assert (component["Name"], component["Version"]) == ("Engine", found["Version"])
    wanted = {"ApiVersion", "MinAPIVersion", "GitCommit", "GoVersion", "Os", "Arch"}
    assert wanted | {"KernelVersion", "BuildTime", "Experimental"} <= set(component["Details"])


def test_docker_version(engine: Engine) -> None:
    shown = engine.docker("version").stdout
    assert "Server:" in shown
    assert "API version:      1.51 (minimum version 1.24)" in shown


def test_info(engine: Engine) -> None:
    found = engine.api("GET", "/info").json()
    assert (found["OSType"], found["KernelVersion"]) == ("linux", platform.release())
    assert found["NCPU"] == os.cpu_count()
    assert found["MemTotal"] > 10**8
    assert (found["Driver"], found["LoggingDriver"]) == ("overlay2", "json-file")
    assert found["CgroupVersion"] in ("1", "2")
    assert found["Containers"] == (
        found["ContainersRunning"] + found["ContainersPaused"] + found["ContainersStopped"]
    )
    assert found["Images"] >= 1
    assert "name=seccomp,profile=builtin" in found["SecurityOptions"]
    assert found["DefaultRuntime"] in found["Runtimes"]
    assert found["IndexServerAddress"] == "https://index.docker.io/v1/"


def test_docker_info(engine: Engine) -> None:
    shown = engine.docker("info").stdout
    assert "Storage Driver: overlay2" in shown
    assert "Logging Driver: json-file" in shown


def test_docker_py(engine: Engine) -> None:
    assert engine.client.ping() is True
    assert engine.client.version()["ApiVersion"] == "1.51"
    assert engine.client.info()["OSType"] == "linux"
