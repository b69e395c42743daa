"""Stacks as users write them, brought up and taken down by Compose v2: tests/compat/stacks/."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import suppress

from tests import polling
from tests.compose import Compose
from tests.engine import Engine, OwnEngine

Stack = Callable[[str], Compose]


def get(address: str, path: str) -> str:
    host, _, port = address.strip().rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def answer(address: str, path: str) -> str:
    """Nothing while the server has only been started."""
    with suppress(OSError, http.client.HTTPException):
        return get(address, path)
    return ""


def test_web_store_and_volume(own_engine: OwnEngine, compose: Stack) -> None:
    """The web server finds the store by name; the data outlives the containers."""
    stack = compose("notes")
    stack("up", "-d", "--wait")
    assert stack.inspect("store")["State"]["Health"]["Status"] == "healthy"
    address = stack("port", "web", "80").stdout
    note = polling.until(lambda: answer(address, "/cgi-bin/note"), "the web server")
    assert note == "first note\n"
    stack.sh("store", "echo second note > /data/note")
    assert get(address, "/cgi-bin/note") == "second note\n"

    stack("down", "-t", "0")
    assert stack.services("-a") == []
    stack("up", "-d", "--wait")
    address = stack("port", "web", "80").stdout
    note = polling.until(lambda: answer(address, "/cgi-bin/note"), "the web server")
    assert note == "second note\n"

    stack("down", "-t", "0", "-v")
    volume = f"{stack.project}_data"
    assert own_engine.api("GET", f"/volumes/{volume}").status == 404
    assert own_engine.api("GET", f"/networks/{stack.project}_default").status == 404


def test_profiles(compose: Stack) -> None:
    stack = compose("profiles")
    stack("up", "-d")
    assert stack.services() == ["app"]
    stack("--profile", "debug", "up", "-d")
    assert stack.services() == ["app", "debug"]
    stack("--profile", "all", "up", "-d", "extra")
    assert stack.services() == ["app", "debug", "extra"]
    stack("--profile", "debug", "rm", "-fs", "debug")
    assert stack.services() == ["app", "extra"]


def test_scale(engine: Engine, compose: Stack) -> None:
    stack = compose("workers")
    stack("up", "-d")
    assert stack.services() == ["worker"] * 2
    stack("up", "-d", "--scale", "worker=4")
    assert stack.services() == ["worker"] * 4
    addresses = stack.sh("worker", "nslookup worker 127.0.0.11 | grep -c '^Address.*: *[0-9.]*$'")
    assert int(addresses) >= 4
    volumes = {stack.inspect("worker", n)["Mounts"][0]["Name"] for n in range(1, 5)}
    assert len(volumes) == 4
    stack("scale", "worker=1")
    assert stack.services() == ["worker"]
    host = stack.inspect("worker")["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 20)
    assert stack.sh("worker", "ulimit -n") == "512\n"
    assert stack.inspect("worker")["Config"]["Labels"]["tier"] == "back"
    stack("down", "-v", "-t", "0")
    for volume in volumes:
        engine.api("DELETE", f"/volumes/{volume}?force=1")  # scaling down keeps them


def test_networks_and_aliases(compose: Stack) -> None:
    stack = compose("networks")
    stack("up", "-d")
    stack.sh("app", "until wget -qO- http://127.0.0.1/ 2>/dev/null; do sleep 0.05; done")
    for name in ("app", "api", "api.internal", f"{stack.project}-app-1"):
        assert stack.sh("proxy", f"wget -qO- http://{name}/") == "from the app\n"
    assert "10.123.45.10" in stack.sh("proxy", "ip -4 addr")
    assert stack.sh("client", "hostname") == "front-client\n"
    assert "192.0.2.7" in stack.sh("client", "grep somewhere.example /etc/hosts")
    stack.sh("client", "ping -c 1 -W 5 proxy")
    found = stack.sh("client", "nslookup api || echo unknown", check=False)
    assert "unknown" in found
    app = stack.inspect("app")["NetworkSettings"]["Networks"][f"{stack.project}_back"]
    blocked = f"ping -c 1 -W 1 {app['IPAddress']} >/dev/null || echo blocked"
    assert stack.sh("client", blocked) == "blocked\n"


def test_secrets_configs_and_environment(own_engine: OwnEngine, compose: Stack) -> None:
    stack = compose("settings")
    stack("up", "-d", env={"WHO": "world", "TOKEN": "t0ken"})
    assert stack.sh("app", "cat /run/secrets/password") == "opensesame\n"
    assert stack.sh("app", "cat /etc/token", check=False) in ("t0ken", "")  # 0400, and not root's
    assert stack("exec", "-T", "-u", "0", "app", "cat", "/etc/token").stdout == "t0ken"
    assert stack.sh("app", "cat /etc/app.conf") == "who=world\n"
    assert stack.sh("app", "cat /etc/app/motd") == "welcome\n"
    assert stack.sh("app", "echo $GREETING $ANSWER") == "hello world 42\n"
    assert stack.sh("app", "id -u; pwd") == "1000\n/tmp\n"
    assert "1024" in stack.sh("app", "df -k /cache")


def test_job_before_the_service(own_engine: OwnEngine, compose: Stack) -> None:
    stack = compose("migration")
    stack("up", "-d")
    assert stack.services() == ["app"]
    assert stack.services("-a") == ["app", "migrate"]
    polling.until(lambda: "migrated" in stack.logs("app"), "the job's result in the log")
    labels = own_engine.api("GET", f"/volumes/{stack.project}_data").json()["Labels"]
    assert labels["purpose"] == "schema"


def test_failed_job_keeps_the_service_down(compose: Stack) -> None:
    stack = compose("migration")
    failed = stack("up", "-d", check=False, env={"MIGRATION_RESULT": "5"})
    assert failed.returncode != 0
    assert 'service "migrate" didn\'t complete successfully: exit 5' in failed.stderr
    assert stack.services() == []


def test_restart_policies(engine: Engine, compose: Stack) -> None:
    stack = compose("crashing")
    stack("up", "-d")

    def state(service: str) -> tuple[str, int, int]:
        found = stack.inspect(service)
        return found["State"]["Status"], found["State"]["ExitCode"], found["RestartCount"]

    polling.until(lambda: state("limited") == ("exited", 3, 2), "two restarts and no more")
    polling.until(lambda: state("forever")[2] >= 3, "three restarts")
    polling.until(lambda: state("once") == ("exited", 7, 0), "the end of what starts once")
    assert stack.logs("limited").count("try") == 3
    stack("stop", "forever")
    assert state("forever")[0] == "exited"
    listed = [
        json.loads(line) for line in stack("ps", "-a", "--format", "json").stdout.splitlines()
    ]
    assert {entry["State"] for entry in listed} == {"exited"}


def test_wait_tells_bad_health(compose: Stack) -> None:
    stack = compose("health")
    stack("up", "-d", "--wait", "good")
    stack("up", "-d", "off")
    assert stack.services() == ["good", "off"]
    assert "Health" not in stack.inspect("off")["State"]
    failed = stack("--profile", "bad", "up", "-d", "--wait", "bad", check=False)
    assert failed.returncode == 1
    assert "is unhealthy" in failed.stderr
