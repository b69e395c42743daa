"""Network plugins that are killed or hang, and an engine that is killed while it talks to one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import polling
from tests.engine import BUSYBOX, OwnEngine, fresh_name
from tests.plugin_process import NOTHING, PluginProcess, network_plugin

SUBNET = f"10.{150 + os.getpid() % 40}.8"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[PluginProcess]:
    with network_plugin(tmp_path / "plugin") as found:
        yield found


@pytest.fixture
def network(own_engine: OwnEngine, plugin: PluginProcess) -> Iterator[str]:
    name = fresh_name()
    create(own_engine, plugin, name)
    yield name
    own_engine.api("DELETE", f"/networks/{name}")


def create(engine: OwnEngine, plugin: PluginProcess, name: str) -> None:
    line = ("-d", plugin.name, "--ipam-driver", plugin.name, "--subnet", f"{SUBNET}.0/24")
    engine.docker("network", "create", *line, name)


def run(engine: OwnEngine, network: str, *arguments: str) -> str:
    name = fresh_name()
    line = ("--name", name, "--network", network, *arguments)
    engine.docker("run", "-d", *line, BUSYBOX, "sleep", "1000")
    return name


def test_dead_plugin_keeps_nobody(
    own_engine: OwnEngine, plugin: PluginProcess, network: str
) -> None:
    """Its container ends, its network goes, others start; it is told when it is back."""
    engine = own_engine
    one = run(engine, network)
    plugin.kill()
    engine.docker("exec", one, "true")
    engine.docker("run", "--rm", BUSYBOX, "true")
    started = time.monotonic()
    engine.docker("stop", "-t", "0", one)
    engine.docker("rm", one)
    engine.docker("network", "rm", network)
    assert time.monotonic() - started < 15, "Docker waits that long for each call"
    assert plugin.held() != NOTHING
    plugin.restart()
    polling.until(lambda: plugin.held() == NOTHING, "the plugin to be told", timeout=20)


def test_plugin_that_is_gone(own_engine: OwnEngine, plugin: PluginProcess, network: str) -> None:
    engine = own_engine
    engine.docker("create", "--name", "t-without", "--network", network, BUSYBOX, "true")
    plugin.kill()
    plugin.socket.unlink()
    lost = f'plugin "{plugin.name}" not found'
    try:
        found = engine.api("POST", "/containers/t-without/start")
        assert (found.status, found.message) == (
            404,
            f"failed to set up container networking: {lost}",
        )
        found = engine.api("DELETE", f"/networks/{network}")
        assert (found.status, found.message) == (
            500,
            f"error while removing network: failed deleting Network: {lost}",
        )
    finally:
        engine.docker("rm", "-f", "t-without")
        plugin.restart()
    engine.docker("network", "rm", network)


def test_call_waits_for_a_plugin_that_is_being_restarted(
    own_engine: OwnEngine, plugin: PluginProcess, network: str, tmp_path: Path
) -> None:
    """A call is tried again for 15 s."""
    with ExitStack() as stack:
        stack.callback(own_engine.docker, "rm", "-f", "t-waiting")
        own_engine.docker("create", "--name", "t-waiting", "--network", network, BUSYBOX, "true")
        plugin.kill()
        answers: list[int] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                own_engine.api("POST", "/containers/t-waiting/start").status
            )
        )
        thread.start()
        # Others' starts do not wait for it.
        own_engine.docker("run", "--rm", BUSYBOX, "true")
        assert not answers
        plugin.restart()
        thread.join(20)
        assert answers == [204]


CALLS = [
    "IpamDriver.RequestPool",
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.Join",
    "NetworkDriver.ProgramExternalConnectivity",
]


@pytest.mark.parametrize("method", CALLS)
def test_killed_while_it_waits_for_an_answer(
    mortal: OwnEngine, plugin: PluginProcess, method: str
) -> None:
    """The plugin has done it, and the engine has never heard so."""
    engine, name = mortal, fresh_name()
    is_network = method in CALLS[:2]
    if not is_network:
        create(engine, plugin, name)
    before = plugin.held()
    with plugin.hold(method):
        line = ("-d", plugin.name, "--ipam-driver", plugin.name, "--subnet", f"{SUBNET}.0/24")
        waiting = (
            engine.spawn("network", "create", *line, name)
            if is_network
            else engine.spawn("run", "--name", "t-cut", "--network", name, BUSYBOX, "sleep", "9")
        )
        polling.until(lambda: method in plugin.methods(), method)
        engine.kill_lifecycle()
        waiting.communicate(timeout=20)
    polling.until(lambda: serves(engine), "lifecycle to be back", timeout=20)
    engine.api("DELETE", "/containers/t-cut?force=1")
    polling.until(lambda: plugin.held() == before, "the plugin to be told", timeout=20)
    listed = [one["Name"] for one in engine.api("GET", "/networks").json()]
    assert (name in listed) is not is_network
    netns = engine.exec_root / "netns"
    assert not netns.exists() or not list(netns.iterdir())
    if not is_network:
        engine.docker("network", "rm", name)


def serves(engine: OwnEngine) -> bool:
    try:
        return engine.api("GET", "/containers/json").status == 200
    except OSError:
        return False


def test_container_outlives_the_engine(mortal: OwnEngine, plugin: PluginProcess) -> None:
    engine, name = mortal, fresh_name()
    create(engine, plugin, name)
    one, two = run(engine, name), run(engine, name)
    before = plugin.held()
    engine.kill_daemons()
    engine.start()
    engine.docker("exec", two, "ping", "-c", "1", "-W", "10", one)
    assert plugin.held() == before
    three = run(engine, name)
    engine.docker("exec", three, "ping", "-c", "1", "-W", "10", one)
    found = engine.inspect(three)["NetworkSettings"]["Networks"][name]["IPAddress"]
    assert found == f"{SUBNET}.103"
    engine.docker("rm", "-f", one, two, three)
    engine.docker("network", "rm", name)
    assert plugin.held() == NOTHING


def test_hanging_plugin_does_not_keep_the_engine_from_starting(
    mortal: OwnEngine, plugin: PluginProcess
) -> None:
    """Its container ended while nobody looked, and is one that shall always run."""
    engine, name = mortal, fresh_name()
    create(engine, plugin, name)
    one = run(engine, name, "--restart", "always")
    before = plugin.held()
    with plugin.hold("NetworkDriver.Leave"), plugin.hold("IpamDriver.RequestAddress"):
        engine.kill_everything()
        engine.start()
        polling.until(lambda: plugin.calls("NetworkDriver.Leave"), "the plugin to be told")
        engine.docker("run", "--rm", BUSYBOX, "true")
        assert not engine.inspect(one)["State"]["Pid"]
    polling.until(lambda: engine.inspect(one)["State"]["Pid"], "its start", timeout=20)
    engine.docker("exec", one, "ping", "-c", "1", "-W", "10", f"{SUBNET}.100")
    assert len(plugin.held()["endpoints"]) == len(before["endpoints"])
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", name)


def test_addresses_are_told_anew_to_a_forgetful_plugin(
    mortal: OwnEngine, plugin: PluginProcess
) -> None:
    plugin.say("IpamDriver.GetCapabilities", {"RequiresRequestReplay": True})
    engine, name = mortal, fresh_name()
    create(engine, plugin, name)
    one = run(engine, name)
    told = len(plugin.all_calls())
    engine.kill_daemons()
    plugin.say("IpamDriver.RequestPool", {"PoolID": f"id-{SUBNET}.0/24", "Pool": f"{SUBNET}.0/24"})
    plugin.say("IpamDriver.RequestAddress", {"Address": f"{SUBNET}.1/24"})
    engine.start()

    def again() -> list[str]:
        later = plugin.all_calls()[told:]
        return [body["Address"] for name, body in later if name == "IpamDriver.RequestAddress"]

    polling.until(lambda: len(again()) == 2, "both addresses")
    assert again() == [f"{SUBNET}.100", f"{SUBNET}.101"]
    plugin.unsay()
    engine.docker("rm", "-f", one)
    engine.docker("network", "rm", name)
